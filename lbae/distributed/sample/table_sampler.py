"""Draw an image table from a bundle: a pool of actors draws, decodes and writes its parts.

A part consists of whole blocks of the prior, so image i does not depend on the number of actors.
"""

import time
from dataclasses import replace
from typing import Any

import ray
import torch

from lbae.core.bundle import Bundle
from lbae.core.prior.prior import BLOCK, whole_blocks
from lbae.distributed.cluster.actor_pool import run_on_actors
from lbae.distributed.cluster.session import session
from lbae.distributed.cluster.storage_check import check_storage
from lbae.io.artifacts import image_table
from lbae.io.artifacts.bundle_artifact import load_bundle
from lbae.io.artifacts.output import Output
from lbae.io.artifacts.written_part import Part
from lbae.io.storage.location import absolute
from lbae.io.storage.lock import locked
from lbae.report.progress import ProgressLine

_PART_ROWS = 8 * BLOCK  # what one task of a later stage reads, and what a lost actor has to redo


def sample_table(
    *,
    bundle: str,
    out: str,
    num: int,
    seed: int,
    given: dict[str, bool],
    temperature: float = 1.0,
    overwrite: bool = False,
    address: str | None = None,
) -> dict[str, Any]:
    """Publish an image table with the ``num`` images that :meth:`lbae.core.bundle.Bundle.sample` draws.

    Raises:
        UserError: The prior does not know an attribute of ``given``, a combination is too rare to draw, or
            the temperature is out of range.
    """
    loaded = load_bundle(bundle, "cpu")
    loaded = replace(loaded, prior=loaded.prior.at(temperature))
    loaded.prior.draw(0, 1, seed, given)  # finds most errors in ``given`` before anything is written
    settings = {"num": num, "seed": seed, "given": given}
    settings |= {} if temperature == 1 else {"temperature": temperature}  # as tables of earlier versions
    parents = {"bundle": loaded.fingerprint}
    with locked(out):
        output = Output(
            out, image_table.KIND, parents=parents, config=settings, inputs=[bundle], overwrite=overwrite
        )
        if done := output.existing():
            return done
        started = time.monotonic()
        parts, draws = [], 0.0
        with session(address), ProgressLine("sample", num, "images") as line:
            check_storage([], [out])
            output.begin()
            written = run_on_actors(
                range(-(-num // _PART_ROWS)),
                _Sampler,
                lambda index: f"drawing part {index}",
                bundle=ray.put(loaded),  # one copy per node, of the bundle checked above
                out=absolute(out),
                num=num,
                seed=seed,
                given=given,
            )
            for part, counted in written:
                parts.append(part)
                draws += counted
                line.update(line.done + part.rows)
        result = {
            **settings,
            "bundle": loaded.fingerprint,
            "acceptance": whole_blocks(num) / draws,
            "seconds": round(time.monotonic() - started, 1),
        }
        return image_table.publish_images(output, parts, result)


class _Sampler:
    """Draws, decodes and writes one part; returns it and the draws that :meth:`Prior.draw` counted."""

    def __init__(
        self, *, bundle: ray.ObjectRef, out: str, num: int, seed: int, given: dict[str, bool], device: str
    ) -> None:
        torch.set_num_threads(1)  # pixels must not depend on the number of actors
        loaded: Bundle = ray.get(bundle)
        self.bundle = loaded.to(device)
        self.out, self.num, self.seed, self.given = out, num, seed, given

    def __call__(self, index: int) -> tuple[Part, float]:
        first = index * _PART_ROWS
        stop = min(first + _PART_ROWS, self.num)
        latents, draws = self.bundle.prior.draw(first, stop, self.seed, self.given)
        images = self.bundle.decode(self.bundle.move_to_given(latents, self.given))
        return image_table.write_part(self.out, index, first, images), draws
