"""Encoding an image source to a latent table with Ray Data: a pool of actors reads, decodes and encodes shards.

One row of a Ray data set is one shard of the source and leaves one file; then one row is one part file made of those. What
is there when the job is killed is not done again, and no row is lost, doubled or moved, whatever the number of actors.
"""

import collections
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import ray
import ray.data
import torch
from ray.util.metrics import Counter

from lbae import log
from lbae.config import Precision
from lbae.core.latents.packing import pack
from lbae.core.network.codec import best_precision
from lbae.distributed.cluster.session import (
    RUNS_A_NETWORK,
    actor_pool,
    cluster_gpus,
    cluster_nodes,
    network_cpus,
    node_cpus,
    session,
)
from lbae.distributed.cluster.storage_check import reached
from lbae.distributed.cluster.tasks import answered, outcomes, over
from lbae.io.artifacts import latent_parts as assembly
from lbae.io.artifacts import latent_table
from lbae.io.artifacts import output as artifact
from lbae.io.artifacts.model_artifact import load_model, load_network
from lbae.io.sources.decode import Decoded, check_bad_share, decode_rows
from lbae.io.sources.plan import CUT, Kind, plan
from lbae.io.sources.source import Shard, Source, fitted, read_batches, without
from lbae.io.storage.location import absolute
from lbae.io.storage.lock import locked
from lbae.report.progress import ProgressLine


def encode(
    *,
    model: str,
    data: str,
    out: str,
    append: bool = False,
    keep_images: bool = False,
    kind: Kind | None = None,
    max_bad_fraction: float = 0.01,
    overwrite: bool = False,
    gpus: int | None = None,
    address: str | None = None,
) -> dict[str, Any]:
    """Encode images into a Parquet table of bit-packed latents. A killed job, run again, continues.

    Args:
        model: URI of the model artifact.
        data: image table (Parquet), WebDataset tars, folder of images, or torchvision:mnist, cifar10, celeba.
        out: URI of the latent table.
        append: encode only images whose keys are not in the table yet, as its next generation; the others are counted.
        keep_images: keep the images' bytes in the table, as its column ``image``.
        kind: table, tars or files: what ``data`` is, when its files' names (.parquet, .tar) do not say so.
        max_bad_fraction: share of undecodable images above which the job fails, after writing what it has.
        overwrite: replace another artifact at ``out``.
        gpus: GPUs that the cluster must have or get; without it whatever it has is used, perhaps none.
        address: Ray cluster to join; found or started when not given.
    """
    _, config, manifest = load_network(model)
    images = plan(data, kind)
    parents = {"model": manifest.fingerprint, "data": images.fingerprint}
    settings = {"latent_dim": config.model.latent_dim, "keep_images": keep_images}
    inputs = [model, *images.folders]
    base, shards, known = None, images.shards, {}
    with locked(out) as still_held:
        if append:
            base = assembly.open_for_append(out, manifest, settings)
            if base.parts:
                shards = fitted(shards, base.source_columns(), out)
            shards = without(shards, base.keys())
            known = _known_rows(images, shards, base)
            if not shards:
                return {"out": absolute(out), **base.manifest.result, **known, "already": True}
        else:
            place = (out, latent_table.KIND, parents, settings, overwrite, inputs, CUT)
            if done := artifact.finished(*place):
                check_bad_share(data, done["bad"], images.rows, max_bad_fraction)
                return done
        started = time.monotonic()
        encoder: dict[str, Any] = {"model": absolute(model), "out": absolute(out), "keep_images": keep_images}
        with session(address, gpus):
            reached([images.uri, model], [out])
            if base:
                artifact.begin_update(out, base.manifest, parents, overwrite, inputs, CUT)
            else:
                artifact.begin(*place)
            encoder["precision"] = base.manifest.result["precision"] if base else _precision(encoder["out"])
            encoded = _encode(encoder, shards, still_held)
            parts = _assemble(absolute(out), base)
        still_held()
        spent = {**encoded, "seconds": round(time.monotonic() - started, 1)}
        facts = {"model": encoder["model"], "data": images.uri, **known, **spent}
        result = assembly.publish(out, parts, base, parents, settings, facts)
    check_bad_share(data, sum(part.bad for part in parts), sum(shard.wanted for shard in shards), max_bad_fraction)
    return result


def _known_rows(images: Source, rest: tuple[Shard, ...], base: latent_table.LatentTable) -> dict[str, int]:
    """How many rows are not encoded since the table has their keys; a warning where it has them from elsewhere.

    Those may be the same images, as in a folder that was moved, or others whose files have the same names.
    """
    known = images.rows - sum(shard.wanted for shard in rest)
    before = base.manifest.result.get("data", "a place that it does not name")
    if known and before != images.uri:
        log.warning(
            f"{known} of {images.rows} images of {images.uri} are not encoded: {base.uri}, encoded from {before}, has their"
            " keys; if they are other images, give their files other names, or encode them into a table of their own"
        )
    return {"known_rows": known}


def _encode(encoder: dict[str, Any], shards: tuple[Shard, ...], still_held: Callable[[], None]) -> dict[str, Any]:
    """Encode the shards that are not finished yet; how many images that were on every node, and how many a second."""
    finished = assembly.finished_shards(encoder["out"])
    missing = [shard for shard in shards if shard.index not in finished]
    total = sum(shard.wanted for shard in shards)
    by_node: collections.Counter[str] = collections.Counter()
    with ProgressLine("encode", total, "images") as line:
        before = total - sum(shard.wanted for shard in missing)
        for node, rows in outcomes(_over_actors(missing, encoder)) if missing else ():
            by_node[node] += rows
            line.update(before + by_node.total())
            still_held()
    return {"images_by_node": sorted(by_node.values(), reverse=True), "images_per_second": round(line.rate, 1)}


def _precision(out: str) -> Precision:
    """The precision of a table: that of its finished shards, else what the actors' device does best.

    One for all of them: nodes may differ, and a killed job may be continued on others.
    """
    if (found := assembly.precision(out)) is not None:
        return found
    _, gpus = actor_pool(network_cpus(), cluster_gpus())
    if not gpus:
        return best_precision(torch.device("cpu"))
    return ray.get(ray.remote(best_precision).options(num_gpus=gpus).remote(torch.device("cuda")))


def _over_actors(shards: list[Shard], encoder: dict[str, Any]) -> ray.data.Dataset:
    cpus, gpus = network_cpus(), cluster_gpus()
    most, share = actor_pool(cpus, gpus)
    actors = min(most, len(shards))
    threads = max(1, min(cpus // actors, node_cpus(min(1, gpus))))
    return over(
        shards,
        _Encoder,
        fn_constructor_kwargs={**encoder, "device": "cuda" if gpus else "cpu", "threads": threads},
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=1,
        num_gpus=share or None,
        runtime_env=RUNS_A_NETWORK,
    )


def _assemble(out: str, base: latent_table.LatentTable | None) -> list[assembly.Part]:
    """Make part files of the finished shards, at least one for every node."""
    plans = assembly.plan_parts(out, base.manifest.generation + 1 if base else 1, cluster_nodes())
    if len(plans) == 1:  # starting a worker takes longer than the work
        return [assembly.assemble(out, plans[0])]

    def assemble(row: dict[str, Any]) -> dict[str, Any]:
        return answered(row, lambda plan: assembly.assemble(out, plan))

    return list(outcomes(over(plans, assemble, num_cpus=1)))


class _Encoder:
    """Holds the model; makes of a shard its file. While a batch is encoded the next ones are read and decoded."""

    def __init__(self, model: str, out: str, keep_images: bool, precision: Precision, device: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self.codec = load_model(model, precision, torch.device(device))
        self.model = artifact.read_manifest(model).fingerprint
        self.out, self.keep_images = out, keep_images
        self.made = {
            "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
            "precision": self.codec.precision,
        }
        self.pool, self.ahead = ThreadPoolExecutor(threads), threads
        self.node = ray.get_runtime_context().get_node_id()
        self.encoded = Counter("lbae_encoded_images", description="Images encoded or set aside.")

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return answered(row, self._write)

    def _write(self, shard: Shard) -> tuple[str, int]:
        latents, quarantine = [], []
        for decoded in self._decoded(shard):
            latents.append(self._latents(decoded))
            quarantine.append(decoded.quarantine)
        assembly.write_shard(self.out, shard.index, latents, pa.concat_tables(quarantine), self.made)
        self.encoded.inc(shard.wanted)
        return self.node, shard.wanted

    def _decoded(self, shard: Shard) -> Iterator[Decoded]:
        waiting: deque[Future[Decoded]] = deque()
        for batch in read_batches(shard):
            waiting.append(self.pool.submit(decode_rows, batch, self.codec.config, self.keep_images))
            if len(waiting) > self.ahead:
                yield waiting.popleft().result()
        for future in waiting:
            yield future.result()

    def _latents(self, decoded: Decoded) -> pa.Table:
        packed = pack(self.codec.encode(decoded.images))
        keys, rest = decoded.rows["key"].combine_chunks(), decoded.rows.drop_columns(["key"])
        return latent_table.latent_part(keys, packed, rest, self.codec.config.latent_dim, self.model)
