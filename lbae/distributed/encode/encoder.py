"""Encode an image source to a latent table: a pool of actors reads, decodes and encodes its parts.

An actor writes each part once, as a file of the table. A killed job resumes with the parts that have no file.
The rows and their order do not depend on the number of actors.
"""

import collections
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
import torch
from ray.util.metrics import Counter

from lbae.config import Precision
from lbae.core.latents.packing import pack
from lbae.core.network.codec import best_precision
from lbae.distributed.cluster.actor_pool import run_on_actors, torch_device
from lbae.io.artifacts import latent_parts, latent_table
from lbae.io.artifacts.latent_parts import PartPlan
from lbae.io.artifacts.manifest import read_manifest
from lbae.io.artifacts.model_artifact import load_model
from lbae.io.artifacts.written_part import Part
from lbae.io.sources.decode import Decoded, decode_rows
from lbae.io.sources.source import Shard, read_batches
from lbae.report.progress import ProgressLine


def encode_parts(
    actor_arguments: dict[str, Any],
    plans: Sequence[PartPlan],
    precision: Precision | None,
    check_lock: Callable[[], None],
) -> tuple[list[Part], dict[str, Any]]:
    """Encode the parts that are not finished yet; return all, and images per node and images per second.

    All actors use one precision, although nodes may differ and a killed job may resume on other nodes. If
    ``precision`` is None, it is that of the finished parts, else the best of the actors' device.
    """
    finished = latent_parts.finished_parts(actor_arguments["out"], plans)
    parts, missing = list(finished.values()), [plan for plan in plans if plan.name not in finished]
    precision = precision or next((_precision(part) for part in parts), None) or _best_precision()
    by_node: collections.Counter[str] = collections.Counter()
    began = updated = math.inf
    with ProgressLine("encode", sum(plan.rows for plan in plans), "images") as line:
        line.update(sum(part.rows + part.bad for part in parts))
        for done in run_on_actors(
            missing, _PartEncoder, lambda plan: f"encoding {plan}", precision=precision, **actor_arguments
        ):
            parts.append(done.part)
            by_node[done.node] += done.encoded
            updated = time.monotonic()
            began = min(began, updated - done.seconds)
            line.update(line.done + done.part.rows + done.part.bad)
            check_lock()
    return parts, {
        "images_by_node": sorted(by_node.values(), reverse=True),
        # Not the line's rate, which leaves out all before the first part: too much where parts are few.
        "images_per_second": round(by_node.total() / max(1e-9, updated - began), 1) if by_node else 0.0,
    }


def _precision(part: Part) -> Precision:
    return "bfloat16" if part.encoder[1] == "bfloat16" else "float32"


def _best_precision() -> Precision:
    """The best precision of the device on which actors run."""
    device, share = torch_device()
    if device == "cpu":
        return best_precision(torch.device("cpu"))
    return ray.get(ray.remote(best_precision).options(num_gpus=share).remote(torch.device(device)))


@dataclass(frozen=True, kw_only=True)
class _Done:
    """A part, the node that encoded it, how many rows it encoded and in how many seconds."""

    part: Part
    node: str
    encoded: int
    seconds: float


class _PartEncoder:
    """Encodes a part to its file while threads decode further batches."""

    def __init__(self, *, model: str, out: str, keep_images: bool, precision: Precision, device: str) -> None:
        self.codec = load_model(model, precision, torch.device(device))
        self.model = read_manifest(model).fingerprint
        self.out, self.keep_images = out, keep_images
        named = torch.cuda.get_device_name() if device == "cuda" else "cpu"
        self.encoder = (named, self.codec.precision)
        self.ahead = torch.get_num_threads()
        self.pool = ThreadPoolExecutor(self.ahead)
        self.node = ray.get_runtime_context().get_node_id()
        self.counter = Counter("lbae_encoded_images", description="Images encoded or quarantined.")

    def __call__(self, plan: PartPlan) -> _Done:
        # A process that was lost after its last write, or that the job's listing did not show yet.
        if part := latent_parts.finished_part(self.out, plan):
            return _Done(part=part, node=self.node, encoded=0, seconds=0)
        started, latents, quarantine = time.monotonic(), [], []
        for decoded in self._decoded(plan.shards):
            latents.append(self._latents(decoded))
            quarantine.append(decoded.quarantine)
            self.counter.inc(len(decoded.rows) + len(decoded.quarantine))
        part = latent_parts.write_latent_part(
            self.out, plan, latents, pa.concat_tables(quarantine), self.encoder
        )
        return _Done(part=part, node=self.node, encoded=plan.rows, seconds=time.monotonic() - started)

    def _decoded(self, shards: Sequence[Shard]) -> Iterator[Decoded]:
        waiting: deque[Future[Decoded]] = deque()
        for batch in (batch for shard in shards for batch in read_batches(shard)):
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
