"""Encoding an image source to a latent table with Ray Data: a pool of actors reads, decodes and encodes
shards.

One row of a Ray data set is one shard of the source and leaves one file; then one row is one part file made
of those. What is there when the job is killed is not done again, and no row is lost, doubled or moved,
whatever the number of actors.
"""

import collections
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import ray
import ray.data
import torch
from ray.util.metrics import Counter

from lbae.config import Precision
from lbae.core.latents.packing import pack
from lbae.core.network.codec import best_precision
from lbae.distributed.cluster.network_env import RUNS_A_NETWORK
from lbae.distributed.cluster.resources import (
    actor_pool,
    cluster_gpus,
    cluster_nodes,
    network_cpus,
    node_cpus,
)
from lbae.distributed.cluster.tasks import answered, outcomes, over
from lbae.io.artifacts import latent_parts as assembly
from lbae.io.artifacts import latent_table
from lbae.io.artifacts.manifest import read_manifest
from lbae.io.artifacts.model_artifact import load_model
from lbae.io.artifacts.part import Part
from lbae.io.sources.decode import Decoded, decode_rows
from lbae.io.sources.source import Shard, read_batches
from lbae.report.progress import ProgressLine


def encode_shards(
    encoder: dict[str, Any], shards: tuple[Shard, ...], still_held: Callable[[], None]
) -> dict[str, Any]:
    """Encode the shards that are not finished yet; how many images that were on every node, and how many a
    second.
    """
    finished = assembly.finished_shards(encoder["out"])
    missing = [shard for shard in shards if shard.index not in finished]
    total = sum(shard.wanted for shard in shards)
    by_node: collections.Counter[str] = collections.Counter()
    with ProgressLine("encode", total, "images") as line:
        before = total - sum(shard.wanted for shard in missing)
        line.update(before)
        for node, rows in outcomes(_over_actors(missing, encoder)) if missing else ():
            by_node[node] += rows
            line.update(before + by_node.total())
            still_held()
    return {
        "images_by_node": sorted(by_node.values(), reverse=True),
        "images_per_second": round(line.rate, 1),
    }


def choose_precision(out: str) -> Precision:
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


def assemble_parts(out: str, base: latent_table.LatentTable | None) -> list[Part]:
    """Make part files of the finished shards, at least one for every node."""
    plans = assembly.plan_parts(out, base.manifest.generation + 1 if base else 1, cluster_nodes())
    if len(plans) == 1:  # starting a worker takes longer than the work
        return [assembly.assemble(out, plans[0])]

    def assemble(row: dict[str, Any]) -> dict[str, Any]:
        return answered(row, lambda plan: assembly.assemble(out, plan), lambda plan: f"writing {plan}")

    return list(outcomes(over(plans, assemble, num_cpus=1)))


class _Encoder:
    """Holds the model; makes of a shard its file. While a batch is encoded the next ones are read and
    decoded.
    """

    def __init__(
        self, model: str, out: str, keep_images: bool, precision: Precision, device: str, threads: int
    ) -> None:
        torch.set_num_threads(threads)
        self.codec = load_model(model, precision, torch.device(device))
        self.model = read_manifest(model).fingerprint
        self.out, self.keep_images = out, keep_images
        self.made = {
            "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
            "precision": self.codec.precision,
        }
        self.pool, self.ahead = ThreadPoolExecutor(threads), threads
        self.node = ray.get_runtime_context().get_node_id()
        self.encoded = Counter("lbae_encoded_images", description="Images encoded or set aside.")

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return answered(row, self._write, lambda shard: f"encoding {shard}")

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
