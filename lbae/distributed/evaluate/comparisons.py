"""The comparisons of an evaluation, as Ray tasks: distances, edits, paths, rate curves and overlap."""

import logging
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import ray

from lbae.core.latents.packing import unpack
from lbae.distributed.cluster.torch_env import torch_task
from lbae.distributed.evaluate.distance_tasks import DistanceTasks
from lbae.distributed.evaluate.extractor_tasks import ExtractorTasks
from lbae.distributed.evaluate.midpoints import midpoint_stream, start_midpoints
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
from lbae.report.evaluation.feature_extraction import FeatureExtractor
from lbae.report.evaluation.findings import Findings, classifier_accuracy
from lbae.report.evaluation.inputs import EvaluationInputs
from lbae.report.evaluation.interpolations import PAIRS, Paths, measure_paths
from lbae.report.evaluation.lossy_formats import FORMATS, rate_curve
from lbae.report.evaluation.settings import EvaluationSettings
from lbae.report.evaluation.streams import MIDPOINTS, RECONSTRUCTIONS, TEST, TRAIN, Stream
from lbae.report.evaluation.variations import VARIATIONS, VARIED, Varied, measure_variations
from lbae.report.features.feature_sums import drawn_rows

_logger = logging.getLogger(__name__)


def compare(
    inputs: EvaluationInputs,
    settings: EvaluationSettings,
    tasks: ExtractorTasks,
    extractor: FeatureExtractor,
    streams: Mapping[str, Stream],
    references: Mapping[str, Reference],
) -> Findings:
    """Derive all findings from features and latents; without a classifier, no accuracy and no edits.

    All tasks start before any is waited for, so they share the cluster's CPUs until the last one ends.
    """
    made, classifier = streams[RECONSTRUCTIONS], extractor.classifier
    middles = start_midpoints(tasks, made.latents)
    distances = DistanceTasks(settings.metrics, references)
    for name, stream in streams.items():
        distances.start(name, stream.features)
    edits, left_out = _start_edits(tasks, extractor, made)
    others = _start_others(tasks, extractor, made)
    overlap = start_overlap(inputs.test, inputs.train, made)
    midpoints = midpoint_stream(middles, extractor.network.num_features, len(made.latents))
    distances.start(MIDPOINTS, midpoints.features)
    memorization = find_memorization(inputs, streams)
    accuracy, unusable = classifier_accuracy(references[TEST].sums, classifier) if classifier else ({}, {})
    measured = [edit for edit in ray.get(edits) if edit]
    edited = {}
    if classifier is not None and settings.features == "classifier":
        edited = edit_distances(measured, classifier, references[TEST].features)
    streams = {RECONSTRUCTIONS: made, MIDPOINTS: midpoints, **streams}
    apart = distances.results()
    return Findings(
        streams=streams,
        references=references,
        distances={name: apart[name] for name in (TRAIN, *streams) if name in apart},
        accuracy=accuracy,
        rates={form: ray.get(others[form]) for form in FORMATS},
        nearest=memorization.nearest,
        neighbours=memorization.neighbours,
        paths=ray.get(others["paths"]),
        edits=[
            replace(edit, ceiling=edit_ceiling(made.sums, edit.attribute, edit.value)) for edit in measured
        ],
        edit_distances=edited,
        variations=ray.get(others[VARIATIONS]),
        overlap=_counted(overlap_counts(overlap, made)),
        left_out=left_out | unusable | memorization.left_out,
    )


def _counted(same: dict[str, int]) -> dict[str, int]:
    """The overlap as given, after a warning if there is any."""
    if count := same.get("bytes"):
        what = f"{count} test images are byte-identical to training images"
        _logger.warning(f"{what}; results on images seen in training look better than they are")
    return same


def _start_others(
    tasks: ExtractorTasks, extractor: FeatureExtractor, made: Stream
) -> dict[str, ray.ObjectRef]:
    """Start the tasks that need reconstructions only: paths, variations, and a rate curve per format."""
    tested = unpack(made.latents, extractor.bundle.codec.config.latent_dim)
    pairs, some = (tested[drawn_rows(len(tested), most)] for most in (2 * PAIRS, VARIED))
    return {
        "paths": tasks.start(_paths, pairs),
        VARIATIONS: tasks.start(_varied, some),
        **{form: _rates.remote(made.shown[:, 0], form) for form in FORMATS},
    }


_rates = torch_task(rate_curve)


def _paths(extractor: FeatureExtractor, latents: np.ndarray) -> dict[str, Paths]:
    return measure_paths(extractor.bundle.codec, extractor.bundle.normals, latents, extractor.seed)


def _varied(extractor: FeatureExtractor, latents: np.ndarray) -> Varied | None:
    if extractor.bundle.prior.sampler != "gaussian":
        return None
    return measure_variations(extractor.bundle, extractor.classifier, latents, extractor.seed)


def _start_edits(
    tasks: ExtractorTasks, extractor: FeatureExtractor, made: Stream
) -> tuple[list[ray.ObjectRef], dict[str, str]]:
    """Start one task per edit; also what is left out, with the reason."""
    if extractor.classifier is None:
        return [], {}
    planned, left_out = plan_edits(extractor.bundle, extractor.classifier)
    if not planned:
        return [], left_out
    rows = drawn_rows(len(made.latents), LATENTS)
    latents = unpack(made.latents[rows], extractor.bundle.codec.config.latent_dim)
    before = tasks.start(_before, latents, made.decisions[rows])
    return [tasks.start(_edits, before, name, value) for name, value in planned], left_out


def _before(extractor: FeatureExtractor, latents: np.ndarray, originals: np.ndarray) -> Before:
    assert extractor.classifier is not None
    return before_edits(extractor.bundle, extractor.classifier, latents, originals)


def _edits(extractor: FeatureExtractor, before: Before, attribute: str, value: bool) -> Edits | None:
    assert extractor.classifier is not None
    return measure_edits(extractor.bundle, extractor.classifier, before, attribute, value)
