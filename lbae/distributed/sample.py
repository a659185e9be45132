"""Drawing images from a bundle into an image table with Ray Data: a pool of actors draws, decodes and writes parts.

One row of the Ray data set is one part file of whole blocks of the prior, so image i is the same for any number of actors.
"""

import pickle
import time
from collections.abc import Iterator
from typing import Any

import ray.data
import torch

from lbae.core.bundle import Bundle
from lbae.core.prior import BLOCK, whole_blocks
from lbae.distributed.session import RUNS_A_NETWORK, cluster_cpus, cluster_gpus, session
from lbae.errors import LbaeError
from lbae.io import artifact, image_table
from lbae.io.bundle import load_bundle
from lbae.io.image_table import ImagePart
from lbae.io.storage import absolute
from lbae.report.progress import ProgressLine

_PART_ROWS = 8 * BLOCK  # what one task of a later stage reads, and what the loss of an actor costs
_ACTORS_A_GPU = 4  # a GPU decodes faster than one CPU compresses PNG


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
    """Publish ``num`` images as an image table: those of :meth:`lbae.core.bundle.Bundle.sample` for the same arguments.

    UserError for attributes that the prior does not know or that are too rare.
    """
    loaded = load_bundle(bundle, "cpu")
    loaded.prior.draw(0, 1, seed, given)  # most mistakes in ``given`` show here, before anything starts or is written
    settings = {"num": num, "seed": seed, "given": given}
    parents = {"bundle": loaded.fingerprint}
    done = artifact.begin(out, image_table.KIND, parents, settings, overwrite)
    if done:
        return done
    started = time.monotonic()
    parts, tries = [], 0
    with session(address), ProgressLine("sample", num, "images") as line:
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
    return image_table.publish_parts(out, parts, parents=parents, config=settings, result=result)


def pool_for(cpus: int, gpus: int) -> tuple[int, float]:
    """How many actors of one CPU draw, and each one's share of a GPU.

    They may take every CPU: parts are handed out by the driver, so no task waits for a CPU that they hold.
    """
    if not gpus:
        return cpus, 0
    sharing = max(1, min(_ACTORS_A_GPU, cpus // gpus))
    return gpus * sharing, 1 / sharing


def _parts(bundle: Bundle, out: str, num: int, seed: int, given: dict[str, bool]) -> Iterator[tuple[ImagePart, int]]:
    """Parts as they are written, and the tries that their latents took."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    count = -(-num // _PART_ROWS)
    actors, gpus = pool_for(cluster_cpus(), cluster_gpus())
    written = ray.data.from_items([{"part": index} for index in range(count)], override_num_blocks=count).map(
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
    for row in written.iter_rows():
        outcome = pickle.loads(row["outcome"])
        if isinstance(outcome, Exception):
            raise outcome
        yield outcome


class _Sampler:
    """Holds the bundle; draws, decodes and writes one part."""

    def __init__(self, bundle: ray.ObjectRef, out: str, num: int, seed: int, given: dict[str, bool], device: str) -> None:
        torch.set_num_threads(1)
        held: Bundle = ray.get(bundle)
        self.prior, self.codec = held.prior, held.codec.to(device)
        self.out, self.num, self.seed, self.given = out, num, seed, given

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            outcome: Any = self._write(row["part"])
        except (LbaeError, OSError) as error:  # as a value: an exception would leave Ray Data without its cause
            outcome = error
        return {"outcome": pickle.dumps(outcome)}

    def _write(self, index: int) -> tuple[ImagePart, int]:
        first = index * _PART_ROWS
        latents, tries = self.prior.draw(first, min(first + _PART_ROWS, self.num), self.seed, self.given)
        return image_table.write_part(self.out, index, first, self.codec.decode(latents)), tries
