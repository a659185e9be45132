"""Distances of sets of images to the references: Ray tasks per metric, which share the radii of each set."""

from collections.abc import Mapping
from typing import Any

import ray

from lbae.distributed.cluster.torch_env import torch_task
from lbae.report.evaluation.cache import Reference
from lbae.report.evaluation.streams import TEST, TRAIN
from lbae.report.features.distances import frechet, kernel
from lbae.report.features.feature_sums import FeatureSums, Metric
from lbae.report.features.precision_recall import precision_recall, radii

_frechet, _kernel = torch_task(frechet), torch_task(kernel)
_radii, _precision_recall = torch_task(radii), torch_task(precision_recall)


class DistanceTasks:
    """The distances of sets of images, by the names of the set and of the reference.

    Against the training images only the Fréchet distance is measured, for which sums suffice. When training
    images are themselves measured, they are limited to the number of test images, like all others: more of
    them would come nearer than a perfect sampler can.
    """

    def __init__(self, metrics: tuple[Metric, ...], references: Mapping[str, Reference]) -> None:
        self._metrics = metrics
        self._references = {name: ray.put(reference.features) for name, reference in references.items()}
        self._has_balls = bool({"precision", "recall"} & set(metrics))
        self._test_radii = _radii.remote(self._references[TEST]) if self._has_balls else None
        self._tasks: dict[str, dict[str, list[ray.ObjectRef]]] = {}
        if TRAIN in references:
            self.start(TRAIN, references[TRAIN].features.drawn(references[TEST].features.count))

    def start(self, name: str, images: FeatureSums) -> None:
        """Start the tasks of one set of images."""
        shared = ray.put(images)
        wanted = {TEST: self._against_test(self._references[TEST], shared)}
        if TRAIN in self._references and name != TRAIN and "frechet" in self._metrics:
            wanted[TRAIN] = [_frechet.remote(self._references[TRAIN], shared)]
        self._tasks[name] = wanted

    def results(self) -> dict[str, dict[str, dict[str, float]]]:
        """Wait for all tasks, and return the metrics by name of the images and of the reference."""
        return {
            name: {reference: self._found(tasks) for reference, tasks in of_name.items()}
            for name, of_name in self._tasks.items()
        }

    def _against_test(self, reference: ray.ObjectRef, images: ray.ObjectRef) -> list[ray.ObjectRef]:
        named: dict[Metric, Any] = {"frechet": _frechet, "kernel": _kernel}
        tasks = [task.remote(reference, images) for metric, task in named.items() if metric in self._metrics]
        if self._has_balls:
            balls = self._test_radii, _radii.remote(images)
            tasks.append(_precision_recall.remote(reference, images, *balls))
        return tasks

    def _found(self, tasks: list[ray.ObjectRef]) -> dict[str, float]:
        found: dict[str, float] = {}
        for metrics in ray.get(tasks):
            found |= metrics
        unwanted = {"precision", "recall"} - set(self._metrics)
        return {metric: value for metric, value in found.items() if metric not in unwanted}
