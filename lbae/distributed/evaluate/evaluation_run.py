"""Evaluate a bundle on Ray: tasks extract features of images, then others compare them.

No result depends on the number of processes or nodes.
"""

import itertools
import time
from dataclasses import replace
from typing import Any

import ray

from lbae.config import Precision
from lbae.core.network.codec import best_precision
from lbae.distributed.cluster.actor_pool import torch_device
from lbae.distributed.evaluate.comparisons import compare
from lbae.distributed.evaluate.extractor_tasks import ExtractorTasks
from lbae.distributed.evaluate.feature_tasks import extract_features, start_samples
from lbae.distributed.evaluate.networks import load_networks
from lbae.io.sources.decode import check_bad_share
from lbae.io.sources.source import Source, spread
from lbae.report.evaluation.cache import Cache, Reference, decoding
from lbae.report.evaluation.feature_extraction import FeatureExtractor
from lbae.report.evaluation.findings import Findings, left_out_by
from lbae.report.evaluation.inputs import EvaluationInputs
from lbae.report.evaluation.settings import EvaluationSettings, make_priors
from lbae.report.evaluation.streams import BAD, RECONSTRUCTIONS, TEST, TRAIN, Stream
from lbae.report.features.feature_sums import check_count

_TRAINING_ROWS = 100_000


def run_evaluation(
    inputs: EvaluationInputs, settings: EvaluationSettings, cache: Cache, max_bad_fraction: float
) -> Findings:
    """Return all findings of an evaluation.

    Raises:
        UserError: There are too few images for a metric.
        LbaeError: More test images than the share ``max_bad_fraction`` cannot be decoded.
    """
    clock = [time.monotonic()]
    config = inputs.bundle.codec.config
    networks = load_networks(inputs.train, config, settings.features, cache)
    sources = _real_images(inputs, settings)
    for name, source in sources.items():
        what = f"{name} of {source.uri}"
        check_count(source.rows, networks.features.num_features, settings.metrics, what)
    clock.append(time.monotonic())

    extractor = FeatureExtractor(
        bundle=inputs.bundle,
        priors=make_priors(settings.priors, inputs.bundle, inputs.moments, settings.temperatures),
        network=networks.features,
        classifier=networks.classifier,
        lpips=networks.lpips,
        rules=settings.protocol,
        samples=inputs.test.rows,
        seed=settings.seed,
    )
    tasks = ExtractorTasks(extractor)
    precision, samples = tasks.start(_precision), start_samples(tasks, extractor)
    clock.append(time.monotonic())

    runs_on = {"device": torch_device()[0], "classifier_precision": ray.get(precision)}
    same = {"networks": networks.fingerprints, "rules": settings.protocol, **runs_on}
    made_of = {
        name: decoding(source, config) | {"role": name, "rows": source.rows, **same}
        for name, source in sources.items()
    }
    known = {name: cache.reference(facts) for name, facts in made_of.items()}
    unknown = {name: source for name, source in sources.items() if known[name] is None}
    streams = extract_features(tasks, extractor, samples, inputs.test, unknown)
    references = _references(known, made_of, streams, cache)
    bad = int(streams[RECONSTRUCTIONS].sums[BAD])
    check_bad_share(inputs.test.uri, bad, inputs.test.rows, max_bad_fraction)
    for name, reference in references.items():
        what = f"{name} of {sources[name].uri} that can be decoded"
        check_count(reference.features.count, networks.features.num_features, settings.metrics, what)
    clock.append(time.monotonic())

    found = compare(inputs, settings, tasks, extractor, streams, references)
    clock.append(time.monotonic())
    seconds = (round(now - before, 1) for before, now in itertools.pairwise(clock))
    return replace(
        found,
        left_out=left_out_by(inputs, settings) | networks.left_out | found.left_out,
        fingerprints=networks.fingerprints,
        hardware=runs_on | {"bundle_precision": inputs.bundle.codec.precision},
        seconds=dict(zip(("networks", "priors", "features", "compare"), seconds, strict=True)),
    )


def _real_images(inputs: EvaluationInputs, settings: EvaluationSettings) -> dict[str, Source]:
    """The sources of the references: all test images, and in our protocol about 100,000 training images."""
    sources = {TEST: inputs.test}
    if inputs.train and settings.protocol == "ours":
        sources[TRAIN] = replace(inputs.train, shards=spread(inputs.train.shards, _TRAINING_ROWS))
    return sources


def _precision(extractor: FeatureExtractor) -> Precision:
    """The precision of classifiers on the device of the tasks."""
    return best_precision(extractor.bundle.codec.device)


def _references(
    known: dict[str, Reference | None],
    made_of: dict[str, dict[str, Any]],
    streams: dict[str, Stream],
    cache: Cache,
) -> dict[str, Reference]:
    """The known references, and those of the other real images, which leave the streams for the cache."""
    references = {}
    for name, reference in known.items():
        if reference is None:
            stream = streams.pop(name)
            reference = Reference(features=stream.features, sums=dict(stream.sums))
            cache.keep_reference(made_of[name], reference)
        references[name] = reference
    return references
