"""Encode an image source to a latent table: a pool of actors reads, decodes and encodes shards.

Actors write one file per shard; then tasks assemble part files from the shards' files. A killed job resumes
with the shards that have no file. The rows and their order do not depend on the number of actors.
"""

import collections
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import ray
import torch
from ray.util.metrics import Counter

from lbae.config import Precision
from lbae.core.latents.packing import pack
from lbae.core.network.codec import best_precision
from lbae.distributed.cluster.actor_pool import run_on_actors, torch_device
from lbae.distributed.cluster.resources import cluster_nodes
from lbae.distributed.cluster.tasks import map_tasks, results, run_task
from lbae.io.artifacts import latent_parts, latent_table
from lbae.io.artifacts.manifest import read_manifest
from lbae.io.artifacts.model_artifact import load_model
from lbae.io.artifacts.written_part import Part
from lbae.io.sources.decode import Decoded, decode_rows
from lbae.io.sources.source import Shard, read_batches
from lbae.report.progress import ProgressLine


def encode_shards(
    actor_arguments: dict[str, Any], shards: tuple[Shard, ...], check_lock: Callable[[], None]
) -> dict[str, Any]:
    """Encode the shards that have no file yet; return images per node and images per second."""
    finished = latent_parts.finished_shards(actor_arguments["out"])
    missing = [shard for shard in shards if shard.index not in finished]
    total = sum(shard.rows_to_read for shard in shards)
    by_node: collections.Counter[str] = collections.Counter()
    with ProgressLine("encode", total, "images") as line:
        before = total - sum(shard.rows_to_read for shard in missing)
        line.update(before)
        for node, rows in run_on_actors(
            missing, _ShardEncoder, lambda shard: f"encoding {shard}", **actor_arguments
        ):
            by_node[node] += rows
            line.update(before + by_node.total())
            check_lock()
    return {
        "images_by_node": sorted(by_node.values(), reverse=True),
        "images_per_second": round(line.rate, 1),
    }


def choose_precision(out: str) -> Precision:
    """The precision of a table: the precision of its finished shards, else the best of the actors' device.

    All actors use this one precision, although nodes may differ and a killed job may resume on other nodes.
    """
    if (found := latent_parts.precision(out)) is not None:
        return found
    device, share = torch_device()
    if device == "cpu":
        return best_precision(torch.device("cpu"))
    return ray.get(ray.remote(best_precision).options(num_gpus=share).remote(torch.device(device)))


def assemble_parts(
    out: str, shards: tuple[Shard, ...], existing_table: latent_table.LatentTable | None
) -> list[Part]:
    """Assemble part files, at least one per node, from the files of the shards."""
    rows = {shard.index: shard.rows_to_read for shard in shards}
    generation = existing_table.manifest.generation + 1 if existing_table else 1
    plans = latent_parts.plan_latent_parts(out, rows, generation, cluster_nodes())
    if len(plans) == 1:  # starting a worker takes longer than the work
        return [latent_parts.assemble(out, plans[0])]

    def assemble(row: dict[str, Any]) -> dict[str, Any]:
        return run_task(row, lambda plan: latent_parts.assemble(out, plan), lambda plan: f"writing {plan}")

    return list(results(map_tasks(plans, assemble, num_cpus=1)))


class _ShardEncoder:
    """Encodes a shard to its file while threads decode further batches; returns node and number of rows."""

    def __init__(self, *, model: str, out: str, keep_images: bool, precision: Precision, device: str) -> None:
        self.codec = load_model(model, precision, torch.device(device))
        self.model = read_manifest(model).fingerprint
        self.out, self.keep_images = out, keep_images
        self.encoded_on = {
            "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
            "precision": self.codec.precision,
        }
        self.ahead = torch.get_num_threads()
        self.pool = ThreadPoolExecutor(self.ahead)
        self.node = ray.get_runtime_context().get_node_id()
        self.encoded = Counter("lbae_encoded_images", description="Images encoded or quarantined.")

    def __call__(self, shard: Shard) -> tuple[str, int]:
        latents, quarantine = [], []
        for decoded in self._decoded(shard):
            latents.append(self._latents(decoded))
            quarantine.append(decoded.quarantine)
        latent_parts.write_shard(
            self.out, shard.index, latents, pa.concat_tables(quarantine), self.encoded_on
        )
        self.encoded.inc(shard.rows_to_read)
        return self.node, shard.rows_to_read

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
        config = self.codec.config
        return latent_table.latent_rows(keys, packed, rest, config.latent_dim, self.model, config.latent_grid)
