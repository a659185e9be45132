"""Comparing what an evaluation saw: one Ray task a distance, a kind of edit, a run of latents or of training
images.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from lbae.core.bundle import Bundle
from lbae.core.latents.editing import has_unit_vectors
from lbae.core.latents.packing import unpack
from lbae.core.prior.memory import QUERIES, distance_facts
from lbae.distributed.cluster.network_env import RUNS_A_NETWORK
from lbae.distributed.cluster.resources import cluster_cpus, network_device
from lbae.distributed.latents.neighbours import Hit, nearest_in
from lbae.errors import UserError
from lbae.io.artifacts.latent_table import LatentTable
from lbae.io.sources.decode import decode_keys
from lbae.io.sources.source import Shard, Source, file_digests, read_shard, shard_keys
from lbae.report.evaluation.edits import LATENTS, Before, Edits, before_edits, measure_edits
from lbae.report.evaluation.findings import (
    ACCURACY,
    BESIDE,
    EDITS,
    MIXTURE,
    NEAREST,
    PRIORS,
    Findings,
    Inputs,
    Settings,
)
from lbae.report.evaluation.paths import PAIRS, Paths, measure_paths
from lbae.report.evaluation.rates import FORMATS, rate_curve
from lbae.report.evaluation.references import Reference
from lbae.report.evaluation.streams import KNOWN, RECONSTRUCTIONS, RIGHT, TEST, TRAIN, Stream
from lbae.report.features.classifier import Classifier
from lbae.report.features.distances import distances
from lbae.report.features.feature_sums import Metric, drawn_rows

_logger = logging.getLogger(__name__)

_EDITS = 20
_SHOWN = 10


def compare(
    inputs: Inputs,
    settings: Settings,
    classifier: Classifier | None,
    streams: Mapping[str, Stream],
    references: Mapping[str, Reference],
    left_out: dict[str, str],
) -> Findings:
    """Everything that follows from what was seen; what lacks its input is left out, and named beside what was
    before.
    """
    made = streams[RECONSTRUCTIONS]
    tested = unpack(made.latents, inputs.bundle.codec.config.latent_dim)
    bundle = ray.put(inputs.bundle)
    device, share = network_device()
    pairs = tested[drawn_rows(len(tested), 2 * PAIRS)]
    ways = _paths.options(num_gpus=share).remote(bundle, device, pairs, settings.seed)
    changes = _start_edits(
        inputs.bundle, bundle, classifier, tested[drawn_rows(len(tested), LATENTS)], left_out
    )
    rates = {form: _rates.remote(made.shown[:, 0], form) for form in FORMATS}
    apart = _start_distances(settings, streams, references)
    overlap = _start_overlap(inputs, made)
    found = Findings(
        streams=streams,
        references=references,
        distances={
            name: {reference: ray.get(task) for reference, task in tasks.items()}
            for name, tasks in apart.items()
        },
        accuracy=_accuracy(references[TEST], classifier, left_out),
        rates={form: ray.get(task) for form, task in rates.items()},
        paths=ray.get(ways),
        edits=[edit for edit in ray.get(changes) if edit],
        overlap=_overlapping(ray.get(overlap), made),
        left_out=left_out,
    )
    _find_nearest(inputs, found)
    if same := found.overlap.get("bytes"):
        what = f"{same} test images are training images too, byte by byte"
        _logger.warning(f"{what}; what was trained on looks better than it is")
    return found


def _task(function: Any) -> Any:
    """All tasks share one kind of worker process, which then has its libraries at hand for the next one."""
    return ray.remote(num_cpus=1, runtime_env=RUNS_A_NETWORK)(function)


_distances, _rates = _task(distances), _task(rate_curve)


def _start_distances(
    settings: Settings, streams: Mapping[str, Stream], references: Mapping[str, Reference]
) -> dict[str, dict[str, ray.ObjectRef]]:
    """By name of the images and of the reference. Against training images only the Fréchet distance, for
    which sums do.

    Training images are measured as many as test images, like all others: more would come nearer than a
    perfect sampler can.
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


@_task
def _paths(bundle: Bundle, device: str, latents: np.ndarray, seed: int) -> dict[str, Paths]:
    return measure_paths(bundle.codec.to(device), bundle.normals, latents, seed)


def _start_edits(
    bundle: Bundle,
    handle: ray.ObjectRef,
    classifier: Classifier | None,
    latents: np.ndarray,
    left_out: dict[str, str],
) -> list[ray.ObjectRef]:
    """Setting every attribute that lifts some bits, and unsetting those that are no class of a label."""
    if classifier is None:
        return []
    sizes = {
        classifier.attributes[i].name: len(indices) for _, indices in classifier.columns for i in indices
    }
    known = [name for name in bundle.attributes.lifted if name in sizes]
    wanted = [(name, value) for name in known for value in ((True,) if sizes[name] > 1 else (True, False))]
    if not wanted:
        left_out[EDITS] = "the bundle has no attributes that the classifier knows and that lift any bits"
        return []
    if len(wanted) > _EDITS:
        left_out[EDITS] = f"{len(wanted) - _EDITS} of {len(wanted)}: the first {_EDITS} are measured"
    if not has_unit_vectors(bundle.attributes, bundle.normals):
        left_out["hyperplane edits"] = (
            "the bundle, of an older version, has no unit vectors of attributes: fit it again"
        )
    network, (device, share) = ray.put(classifier), network_device()
    before = _before.options(num_gpus=share).remote(handle, network, device, latents)
    task = _edits.options(num_gpus=share)
    return [task.remote(handle, network, device, before, name, value) for name, value in wanted[:_EDITS]]


@_task
def _before(bundle: Bundle, classifier: Classifier, device: str, latents: np.ndarray) -> Before:
    return before_edits(bundle.to(device), classifier.to(device), latents)


@_task
def _edits(
    bundle: Bundle, classifier: Classifier, device: str, before: Before, attribute: str, value: bool
) -> Edits | None:
    return measure_edits(bundle.to(device), classifier.to(device), before, attribute, value)


def _start_overlap(inputs: Inputs, tested: Stream) -> list[ray.ObjectRef]:
    """Tasks that look for test images among the training images."""
    if inputs.train is None:
        return []
    keys = ray.put(pa.concat_arrays([shard_keys(shard) for shard in inputs.test.shards]))
    digests = ray.put(np.unique(tested.digests))
    count = min(len(inputs.train.shards), 4 * cluster_cpus())
    return [_overlap.remote(inputs.train.shards[i::count], keys, digests) for i in range(count)]


@_task
def _overlap(shards: Sequence[Shard], keys: pa.Array, digests: np.ndarray) -> tuple[int, np.ndarray]:
    """Among some training images, how many test images' keys there are, and which of their files' digests."""
    same_key = sum(pc.sum(pc.is_in(shard_keys(shard), value_set=keys)).as_py() for shard in shards)
    same_bytes = [np.intersect1d(file_digests(read_shard(shard)), digests) for shard in shards]
    return same_key, np.unique(np.concatenate(same_bytes))


def _overlapping(found: list[tuple[int, np.ndarray]], tested: Stream) -> dict[str, int]:
    """Test images whose file is a training image's too, and those whose key is."""
    if not found:
        return {}
    same = np.concatenate([digests for _, digests in found])
    return {"bytes": int(np.isin(tested.digests, same).sum()), "keys": sum(keys for keys, _ in found)}


def _accuracy(
    reference: Reference, classifier: Classifier | None, left_out: dict[str, str]
) -> dict[str, float]:
    """Of every column the share of test images that the classifier gets right."""
    shares: dict[str, float] = {}
    if classifier is None:
        return shares
    for column, why in classifier.unusable.items():
        left_out[f"{ACCURACY}, {column}"] = f"the training images' column has {why}"
    for column, _ in classifier.columns:
        right, known = (reference.sums.get(f"{what} {column}", 0.0) for what in (RIGHT, KNOWN))
        if known:
            shares[column] = round(right / known, 4)
        else:
            left_out[f"{ACCURACY}, {column}"] = (
                "the test images have no such column with values as in the training images"
            )
    return shares


def _find_nearest(inputs: Inputs, found: Findings) -> None:
    """How near samples come to training latents, against test images' latents; and the training images
    nearest to some.
    """
    if inputs.latents is None:
        return
    tested = found.streams[RECONSTRUCTIONS].latents
    queries = {TEST: tested[drawn_rows(len(tested), QUERIES)]}
    queries |= {name: found.streams[name].latents[:QUERIES] for name in PRIORS if name in found.streams}
    nearest = nearest_in(inputs.latents, np.concatenate(list(queries.values())), NEAREST)
    start = 0
    for name, packed in queries.items():
        found.nearest[name] = distance_facts(nearest.distances[start : start + len(packed), 0])
        if name == MIXTURE and inputs.train is not None:
            hits = [nearest.hits(start + i) for i in range(min(_SHOWN, len(packed)))]
            try:
                found.neighbours = _beside(
                    inputs, inputs.latents, inputs.train, found.streams[MIXTURE].shown, hits
                )
            except UserError as error:  # the table was appended to: it has images of other sources, too
                found.left_out[BESIDE] = str(error)
        start += len(packed)


def _beside(
    inputs: Inputs, table: LatentTable, train: Source, samples: np.ndarray, hits: Sequence[Sequence[Hit]]
) -> np.ndarray:
    """A row of samples, above rows of the training images nearest to each."""
    keys = [table.row(hit.part, hit.group, hit.row)["key"] for some in hits for hit in some]
    images = decode_keys(train, inputs.bundle.codec.config, keys)
    beside = np.concatenate(
        [samples[: len(hits), None], images.reshape(len(hits), -1, *images.shape[1:])], axis=1
    )
    every: np.ndarray = beside.swapaxes(0, 1).reshape(-1, *images.shape[1:])
    return every
