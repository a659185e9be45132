"""Comparing what an evaluation saw: one Ray task a distance, a kind of edit, a run of latents or of training images."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from lbae.core.bundle import Bundle
from lbae.core.memory import QUERIES, distance_facts
from lbae.core.packing import unpack
from lbae.distributed.neighbours import nearest_in
from lbae.distributed.session import RUNS_A_NETWORK, cluster_cpus
from lbae.io.decode import decode_keys
from lbae.io.source import Shard, read_shard, row_digests, shard_keys
from lbae.report.classifier import Classifier
from lbae.report.distances import distances
from lbae.report.edits import Before, Edits, before_edits, measure_edits
from lbae.report.evaluation import MIXTURE, NEAREST, PRIORS, Findings, Inputs, Settings
from lbae.report.features import FeatureSums, Metric
from lbae.report.paths import Paths, measure_paths
from lbae.report.rates import FORMATS, Format, rate_curve
from lbae.report.references import Reference
from lbae.report.streams import KNOWN, RECONSTRUCTIONS, RIGHT, TEST, TRAIN, Stream

_PAIRS = 128
_EDITED, _EDITS = 1_024, 20
_SHOWN = 10


def compare(
    inputs: Inputs,
    settings: Settings,
    classifier: Classifier | None,
    streams: Mapping[str, Stream],
    references: Mapping[str, Reference],
    left_out: dict[str, str],
) -> Findings:
    """Everything that follows from what was seen; what lacks its input is left out, and named beside what was before."""
    tested = unpack(streams[RECONSTRUCTIONS].latents, inputs.bundle.codec.config.latent_dim)
    bundle = ray.put(inputs.bundle)
    ways = _paths.remote(bundle, tested[: 2 * _PAIRS], settings.seed)
    changes = _start_edits(inputs.bundle, bundle, classifier, tested[:_EDITED], left_out)
    shown = streams[RECONSTRUCTIONS].shown
    assert shown is not None
    rates = {form: _rates.remote(shown[: len(shown) // 2], form) for form in FORMATS}
    apart = _start_distances(settings, streams, references)
    overlap = _start_overlap(inputs, streams[RECONSTRUCTIONS], left_out)
    found = Findings(
        streams=streams,
        distances={name: {reference: ray.get(task) for reference, task in tasks.items()} for name, tasks in apart.items()},
        accuracy=_accuracy(references[TEST], classifier),
        rates={form: ray.get(task) for form, task in rates.items()},
        paths=ray.get(ways),
        edits=[edit for edit in ray.get(changes) if edit],
        overlap=_sum(ray.get(overlap)),
        left_out=left_out,
    )
    _find_nearest(inputs, found)
    if any(found.overlap.values()):
        same = "{keys} have the key and {bytes} the bytes of a test image".format(**found.overlap)
        print(f"warning: of the training images {same}; what was trained on looks better than it is", file=sys.stderr)
    return found


def _task(function: Any) -> Any:
    """All tasks share one kind of worker process, which then has its libraries at hand for the next one."""
    return ray.remote(num_cpus=1, runtime_env=RUNS_A_NETWORK)(function)


def _start_distances(
    settings: Settings, streams: Mapping[str, Stream], references: Mapping[str, Reference]
) -> dict[str, dict[str, ray.ObjectRef]]:
    """By name of the images and of the reference. Against training images only the Fréchet distance, for which sums do."""
    handles = {name: ray.put(reference.features) for name, reference in references.items()}
    images = ({TRAIN: handles[TRAIN]} if TRAIN in handles else {}) | {
        name: ray.put(stream.features) for name, stream in streams.items()
    }
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


@_task
def _distances(reference: FeatureSums, images: FeatureSums, metrics: tuple[Metric, ...]) -> dict[str, float]:
    return distances(reference, images, metrics)


@_task
def _paths(bundle: Bundle, latents: np.ndarray, seed: int) -> dict[str, Paths]:
    return measure_paths(bundle.codec, bundle.normals, latents, seed)


@_task
def _rates(images: np.ndarray, form: Format) -> list[tuple[float, float]]:
    return rate_curve(images, form)


def _start_edits(
    bundle: Bundle, handle: ray.ObjectRef, classifier: Classifier | None, latents: np.ndarray, left_out: dict[str, str]
) -> list[ray.ObjectRef]:
    """Setting every attribute that lifts some bits, and unsetting those that are no class of a label."""
    if classifier is None:
        left_out["edits"] = "needs --train-data with labels or attributes, to tell what an edit changed"
        return []
    sizes = {classifier.attributes[i].name: len(indices) for _, indices in classifier.columns for i in indices}
    known = [name for name in bundle.attributes.lifted if name in sizes]
    wanted = [(name, value) for name in known for value in ((True,) if sizes[name] > 1 else (True, False))]
    if not wanted:
        left_out["edits"] = "the bundle has no attributes that the classifier knows and that lift any bits"
    elif len(wanted) > _EDITS:
        left_out["edits"] = f"{len(wanted) - _EDITS} of {len(wanted)}: the first {_EDITS} are measured"
    network = ray.put(classifier)
    before = _before.remote(handle, network, latents)
    return [_edits.remote(handle, network, before, name, value) for name, value in wanted[:_EDITS]]


@_task
def _before(bundle: Bundle, classifier: Classifier, latents: np.ndarray) -> Before:
    return before_edits(bundle, classifier, latents)


@_task
def _edits(bundle: Bundle, classifier: Classifier, before: Before, attribute: str, value: bool) -> Edits | None:
    return measure_edits(bundle, classifier, before, attribute, value)


def _start_overlap(inputs: Inputs, tested: Stream, left_out: dict[str, str]) -> list[ray.ObjectRef]:
    """Tasks that count test images among the training images."""
    if inputs.train is None:
        left_out["overlap with training images"] = "needs --train-data"
        return []
    keys = ray.put(pa.concat_arrays([shard_keys(shard) for shard in inputs.test.shards]))
    digests = ray.put(np.unique(tested.digests))
    count = min(len(inputs.train.shards), 4 * cluster_cpus())
    return [_overlap.remote(inputs.train.shards[i::count], keys, digests) for i in range(count)]


@_task
def _overlap(shards: Sequence[Shard], keys: pa.Array, digests: np.ndarray) -> tuple[int, int]:
    """Of some training images, how many have the key and how many the bytes of a test image."""
    same_key = sum(pc.sum(pc.is_in(shard_keys(shard), value_set=keys)).as_py() for shard in shards)
    same_bytes = sum(np.isin(row_digests(read_shard(shard)), digests).sum() for shard in shards)
    return same_key, int(same_bytes)


def _sum(counts: list[tuple[int, int]]) -> dict[str, int]:
    return {"keys": sum(keys for keys, _ in counts), "bytes": sum(equal for _, equal in counts)} if counts else {}


def _accuracy(reference: Reference, classifier: Classifier | None) -> dict[str, float]:
    """Of every column the share of test images that the classifier gets right."""
    shares: dict[str, float] = {}
    for column, _ in classifier.columns if classifier else ():
        right, known = (reference.sums.get(f"{what} {column}", 0.0) for what in (RIGHT, KNOWN))
        shares |= {column: round(right / known, 4)} if known else {}
    return shares


def _find_nearest(inputs: Inputs, found: Findings) -> None:
    """How near samples come to training latents, against test images' latents; and the training images nearest to some."""
    if inputs.latents is None:
        found.left_out["nearest training latents"] = "needs --latents"
        return
    named = {TEST: found.streams[RECONSTRUCTIONS]} | {name: found.streams[name] for name in PRIORS if name in found.streams}
    queries = [stream.latents[:QUERIES] for stream in named.values()]
    nearest = nearest_in(inputs.latents, np.concatenate(queries), NEAREST)
    starts = dict(zip(named, np.cumsum([0, *map(len, queries)]), strict=False))
    for (name, start), rows in zip(starts.items(), map(len, queries), strict=True):
        found.nearest[name] = distance_facts(nearest.distances[start : start + rows, 0])
    if MIXTURE in named and inputs.train is not None:
        hits = [hit for i in range(_SHOWN) for hit in nearest.hits(starts[MIXTURE] + i)]
        keys = [inputs.latents.row(hit.part, hit.group, hit.row)["key"] for hit in hits]
        images = decode_keys(inputs.train, inputs.bundle.codec.config, keys)
        samples = found.streams[MIXTURE].shown
        assert samples is not None
        beside = np.concatenate([samples[:_SHOWN, None], images.reshape(_SHOWN, -1, *images.shape[1:])], axis=1)
        found.neighbours = beside.swapaxes(0, 1).reshape(-1, *images.shape[1:])
