"""The comparisons of an evaluation, as Ray tasks: distances, edits, paths, rate curves and overlap."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import ray

from lbae.core.bundle import Bundle
from lbae.core.latents.packing import unpack
from lbae.distributed.cluster.actor_pool import torch_device
from lbae.distributed.cluster.torch_env import torch_task
from lbae.distributed.evaluate.nearest_training_latents import find_memorization
from lbae.distributed.evaluate.training_overlap import overlap_counts, start_overlap
from lbae.report.evaluation.cache import Reference
from lbae.report.evaluation.edits import (
    LATENTS,
    Before,
    Edits,
    before_edits,
    edit_ceiling,
    edit_distances,
    measure_edits,
    plan_edits,
)
from lbae.report.evaluation.findings import Findings, classifier_accuracy
from lbae.report.evaluation.inputs import EvaluationInputs
from lbae.report.evaluation.interpolations import PAIRS, Paths, measure_paths
from lbae.report.evaluation.lossy_formats import FORMATS, rate_curve
from lbae.report.evaluation.settings import EvaluationSettings
from lbae.report.evaluation.streams import RECONSTRUCTIONS, TEST, TRAIN, Stream
from lbae.report.evaluation.variations import VARIATIONS, VARIED, Varied, measure_variations
from lbae.report.features.classifier import Classifier
from lbae.report.features.distances import distances
from lbae.report.features.feature_sums import Metric, drawn_rows

_logger = logging.getLogger(__name__)


def compare(
    inputs: EvaluationInputs,
    settings: EvaluationSettings,
    classifier: Classifier | None,
    streams: Mapping[str, Stream],
    references: Mapping[str, Reference],
) -> Findings:
    """Derive all findings from features and latents; without a classifier, no accuracy and no edits."""
    made = streams[RECONSTRUCTIONS]
    tested = unpack(made.latents, inputs.bundle.codec.config.latent_dim)
    bundle = ray.put(inputs.bundle)
    device, share = torch_device()
    pairs = tested[drawn_rows(len(tested), 2 * PAIRS)]
    paths = _paths.options(num_gpus=share).remote(bundle, device, pairs, settings.seed)
    network = ray.put(classifier)
    edits: list[ray.ObjectRef] = []
    accuracy: dict[str, float] = {}
    left_out: dict[str, str] = {}
    if classifier is not None:
        planned, left_out = plan_edits(inputs.bundle, classifier)
        chosen = tested[drawn_rows(len(tested), LATENTS)]
        edits = _start_edits(bundle, network, chosen, planned) if planned else []
        accuracy, unusable = classifier_accuracy(references[TEST].sums, classifier)
        left_out |= unusable
    varied: list[ray.ObjectRef] = []
    if inputs.bundle.prior.sampler == "gaussian":
        some = tested[drawn_rows(len(tested), VARIED)]
        varied = [_varied.options(num_gpus=share).remote(bundle, network, device, some, settings.seed)]
    else:
        left_out[VARIATIONS] = f"the bundle's sampler is {inputs.bundle.prior.sampler}; needs gaussian"
    rates = {form: _rates.remote(made.shown[:, 0], form) for form in FORMATS}
    apart = _start_distances(settings, streams, references)
    overlap = start_overlap(inputs.test, inputs.train, made)
    memorization = find_memorization(inputs, streams)
    same = overlap_counts(overlap, made)
    if count := same.get("bytes"):
        what = f"{count} test images are byte-identical to training images"
        _logger.warning(f"{what}; results on images seen in training look better than they are")
    measured = [edit for edit in ray.get(edits) if edit]
    edited = {}
    if classifier is not None and settings.features == "classifier":
        edited = edit_distances(measured, classifier, references[TEST].features)
    return Findings(
        streams=streams,
        references=references,
        distances={
            name: {reference: ray.get(task) for reference, task in tasks.items()}
            for name, tasks in apart.items()
        },
        accuracy=accuracy,
        rates={form: ray.get(task) for form, task in rates.items()},
        nearest=memorization.nearest,
        neighbours=memorization.neighbours,
        paths=ray.get(paths),
        edits=[
            replace(edit, ceiling=edit_ceiling(made.sums, edit.attribute, edit.value)) for edit in measured
        ],
        edit_distances=edited,
        variations=next(iter(ray.get(varied)), None),
        overlap=same,
        left_out=left_out | memorization.left_out,
    )


_distances, _rates = torch_task(distances), torch_task(rate_curve)


def _start_distances(
    settings: EvaluationSettings, streams: Mapping[str, Stream], references: Mapping[str, Reference]
) -> dict[str, dict[str, ray.ObjectRef]]:
    """Start one task per pair of images and reference; the result is keyed by the names of both.

    Against the training images only the Fréchet distance is measured, for which sums suffice. When training
    images are themselves measured, they are limited to the number of test images, like all others: more of
    them would come nearer than a perfect sampler can.
    """
    handles = {name: ray.put(reference.features) for name, reference in references.items()}
    most = references[TEST].features.count
    images = {TRAIN: ray.put(references[TRAIN].features.drawn(most))} if TRAIN in references else {}
    images |= {name: ray.put(stream.features) for name, stream in streams.items()}
    wanted: dict[str, tuple[Metric, ...]] = {
        TEST: settings.metrics,
        TRAIN: tuple(metric for metric in settings.metrics if metric == "frechet"),
    }
    return {
        name: {
            reference: _distances.remote(handle, features, wanted[reference])
            for reference, handle in handles.items()
            if reference != name and wanted[reference]
        }
        for name, features in images.items()
    }


@torch_task
def _paths(bundle: Bundle, device: str, latents: np.ndarray, seed: int) -> dict[str, Paths]:
    return measure_paths(bundle.codec.to(device), bundle.normals, latents, seed)


def _start_edits(
    bundle: ray.ObjectRef, network: ray.ObjectRef, latents: np.ndarray, planned: list[tuple[str, bool]]
) -> list[ray.ObjectRef]:
    device, share = torch_device()
    before = _before.options(num_gpus=share).remote(bundle, network, device, latents)
    task: Any = _edits.options(num_gpus=share)
    return [task.remote(bundle, network, device, before, name, value) for name, value in planned]


@torch_task
def _before(bundle: Bundle, classifier: Classifier, device: str, latents: np.ndarray) -> Before:
    return before_edits(bundle.to(device), classifier.to(device), latents)


@torch_task
def _varied(
    bundle: Bundle, classifier: Classifier | None, device: str, latents: np.ndarray, seed: int
) -> Varied:
    return measure_variations(bundle.to(device), classifier and classifier.to(device), latents, seed)


@torch_task
def _edits(
    bundle: Bundle, classifier: Classifier, device: str, before: Before, attribute: str, value: bool
) -> Edits | None:
    return measure_edits(bundle.to(device), classifier.to(device), before, attribute, value)
