"""Drawing images from a bundle into an image table with Ray Data: a pool of actors draws, decodes and writes
parts.

One row of the Ray data set is one part file of whole blocks of the prior, so image i is the same for any
number of actors.
"""

import time
from collections.abc import Iterator
from typing import Any

import ray.data
import torch

from lbae.core.bundle import Bundle
from lbae.core.prior.prior import BLOCK, whole_blocks
from lbae.distributed.cluster.network_env import RUNS_A_NETWORK
from lbae.distributed.cluster.resources import actor_pool, cluster_gpus, network_cpus
from lbae.distributed.cluster.session import session
from lbae.distributed.cluster.storage_check import check_storage
from lbae.distributed.cluster.tasks import answered, outcomes, over
from lbae.io.artifacts import image_table
from lbae.io.artifacts.bundle_artifact import load_bundle
from lbae.io.artifacts.output import Output
from lbae.io.artifacts.part import Part
from lbae.io.storage.location import absolute
from lbae.io.storage.lock import locked
from lbae.report.progress import ProgressLine

_PART_ROWS = 8 * BLOCK  # what one task of a later stage reads, and what the loss of an actor costs


def sample_table(
    *,
    bundle: str,
    out: str,
    num: int,
    seed: int,
    given: dict[str, bool],
    overwrite: bool = False,
    address: str | None = None,
) -> dict[str, Any]:
    """Publish ``num`` images as an image table: those of :meth:`lbae.core.bundle.Bundle.sample` for the same
    arguments.

    UserError for attributes that the prior does not know or that are too rare.
    """
    loaded = load_bundle(bundle, "cpu")
    loaded.prior.draw(
        0, 1, seed, given
    )  # most mistakes in ``given`` show here, before anything starts or is written
    settings = {"num": num, "seed": seed, "given": given}
    parents = {"bundle": loaded.fingerprint}
    with locked(out):
        output = Output(
            out, image_table.KIND, parents=parents, config=settings, inputs=[bundle], overwrite=overwrite
        )
        if done := output.existing():
            return done
        started = time.monotonic()
        parts, tries = [], 0
        with session(address), ProgressLine("sample", num, "images") as line:
            check_storage([], [out])
            output.begin()
            for part, tried in _parts(loaded, absolute(out), num, seed, given):
                parts.append(part)
                tries += tried
                line.update(line.done + part.rows)
        result = {
            **settings,
            "bundle": loaded.fingerprint,
            "acceptance": whole_blocks(num) / tries,
            "seconds": round(time.monotonic() - started, 1),
        }
        return image_table.publish_images(output, parts, result)


def _parts(
    bundle: Bundle, out: str, num: int, seed: int, given: dict[str, bool]
) -> Iterator[tuple[Part, int]]:
    """Parts as they are written, and the tries that their latents took."""
    count = -(-num // _PART_ROWS)
    actors, gpus = actor_pool(network_cpus(), cluster_gpus())
    written = over(
        range(count),
        _Sampler,
        fn_constructor_kwargs={
            # The bundle that was checked, and one copy of its prior a node, whatever the number of actors.
            "bundle": ray.put(bundle),
            "out": out,
            "num": num,
            "seed": seed,
            "given": given,
            "device": "cuda" if gpus else "cpu",
        },
        compute=ray.data.ActorPoolStrategy(size=min(actors, count)),
        num_cpus=1,
        num_gpus=gpus or None,
        runtime_env=RUNS_A_NETWORK,
    )
    yield from outcomes(written)


class _Sampler:
    """Holds the bundle; draws, decodes and writes one part."""

    def __init__(
        self, bundle: ray.ObjectRef, out: str, num: int, seed: int, given: dict[str, bool], device: str
    ) -> None:
        torch.set_num_threads(1)
        held: Bundle = ray.get(bundle)
        self.prior, self.codec = held.prior, held.codec.to(device)
        self.out, self.num, self.seed, self.given = out, num, seed, given

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return answered(row, self._write, lambda index: f"drawing part {index}")

    def _write(self, index: int) -> tuple[Part, int]:
        first = index * _PART_ROWS
        latents, tries = self.prior.draw(first, min(first + _PART_ROWS, self.num), self.seed, self.given)
        return image_table.write_part(self.out, index, first, self.codec.decode(latents)), tries
