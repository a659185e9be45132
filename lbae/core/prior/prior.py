"""The prior: a mixture of samplers that all threshold correlated Gaussians, drawn block by block.

Every sampler has a lower-triangular factor F over [boundary; attributes; bits]. The entries of sign(F r)
after the first are the attributes and the latent of one draw, with sign(0) = +1. The samplers differ in the
first entry of r = [r_0; z], z ~ N(0, I):

    hyperplane, paper   r_0 = |N(0, 1)|   r and -r give the same latent, so r_0 may be positive
    all others          r_0 = 1           column 0 of F holds the negative thresholds

The hyperplane sampler is that of slides 12-15. Attributes come before bits, so that the attributes of a draw
depend only on its first 1 + A normals.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float32, Float64, Int8, Int64

from lbae.core.latents.attribute_names import match_given
from lbae.core.prior.given_attributes import GivenAttributes
from lbae.errors import UserError

Sampler = Literal["hyperplane", "gaussian", "paper", "direct", "independent"]

HYPERPLANES: tuple[Sampler, ...] = ("hyperplane", "paper")

# Latent i of a draw depends only on (prior, seed, i): block i // BLOCK has its own random streams and is
# drawn whole, and all matrix products of a prior have one shape. With one component, products have BLOCK
# rows. A component of a mixture has few rows per block, so they are collected over _BLOCKS blocks, for
# products of _ROWS rows.
BLOCK = 256
_BLOCKS, _ROWS = 16, 32
_STRIPS = 4
MAX_TRIES = 2**18  # per block of draws with attributes
# After so many tries a block is given up if it has less than a sixteenth. All its tries would hardly fill it.
_EARLY_TRIES, _EARLY_SHARE = 2**13, 16
HOTTEST = 2.0


@dataclass(frozen=True, kw_only=True)
class Prior:
    """A mixture: a component is drawn by its weight, then attributes and latent from its factor.

    M = 1 + A + N. ``temperature`` scales the normals of the bits, so how much latents with the same component
    and attributes differ. Those of the attributes stay: every attribute is as frequent at any temperature.
    """

    sampler: Sampler
    weights: Float64[np.ndarray, "C"]
    factors: Float32[np.ndarray, "C M M"]
    attributes: tuple[str, ...] = ()
    temperature: float = 1.0

    def __repr__(self) -> str:
        return (
            f"Prior(sampler={self.sampler!r}, components={len(self.weights)}, latent_dim={self.latent_dim},"
            f" attributes={len(self.attributes)}, temperature={self.temperature:g})"
        )

    def at(self, temperature: float) -> "Prior":
        """This prior at another temperature; UserError unless it is in [0, 2].

        Below 1, latents are more typical of their component and differ less; above 1, they differ more.
        """
        if not 0 <= temperature <= HOTTEST:
            raise UserError(
                f"temperature is {temperature}; allowed: 0 (least variety) to {HOTTEST:g}; 1 is the prior"
            )
        return replace(self, temperature=temperature)

    @property
    def latent_dim(self) -> int:
        """N."""
        return self.factors.shape[1] - 1 - len(self.attributes)

    def sample(self, count: int, seed: int) -> Int8[np.ndarray, "{count} N"]:
        """Draw ``count`` latents; latent i does not depend on ``count``."""
        return self.sample_given(count, seed, {})[0]

    def sample_given(
        self, count: int, seed: int, given: Mapping[str, bool]
    ) -> tuple[Int8[np.ndarray, "{count} N"], float]:
        """Draw ``count`` latents with attributes as ``given``; also return the share of draws that have them.

        Latent i does not depend on ``count``. UserError for an attribute that the prior does not know, and
        for attributes that hardly any draw has together.
        """
        latents, draws = self.draw(0, count, seed, given)
        return latents, whole_blocks(count) / max(1, draws)

    def draw(
        self, start: int, stop: int, seed: int, given: Mapping[str, bool]
    ) -> tuple[Int8[np.ndarray, "{stop-start} N"], float]:
        """Draw latents ``start`` to ``stop`` of :meth:`sample_given`.

        Also return the number of draws without conditions among which the latents of their blocks would have
        been. Raises the errors of :meth:`sample_given`.
        """
        given = match_given(given, self.attributes)
        latents = np.empty((stop - start, self.latent_dim), dtype=np.int8)
        step = 1 if len(self.weights) == 1 else _BLOCKS
        first, end = start // BLOCK, whole_blocks(stop) // BLOCK
        total = 0.0
        for index in range(first, end, step):
            components, normals, draws = self._blocks(seed, range(index, min(index + step, end)), given)
            total += draws
            begin = index * BLOCK
            asked = slice(max(start - begin, 0), stop - begin)
            self._fill(
                latents[max(begin - start, 0) : begin - start + len(components)],
                components[asked],
                normals[asked],
            )
        return latents, total

    def _truncated(self, given: Mapping[str, bool]) -> GivenAttributes:
        rows = {1 + self.attributes.index(name): value for name, value in given.items()}
        heads = self.factors[:, : 1 + len(self.attributes), : 1 + len(self.attributes)]
        return GivenAttributes.of(self.weights, heads, rows, constant=self.sampler not in HYPERPLANES)

    def _blocks(
        self, seed: int, indices: range, given: Mapping[str, bool]
    ) -> tuple[Int64[np.ndarray, "B"], Float32[np.ndarray, "B M"], float]:
        """Components and normals of the blocks ``indices``, and the draws that they count for."""
        components = np.empty(len(indices) * BLOCK, dtype=np.int64)
        normals = np.empty((len(components), self.factors.shape[1]), dtype=np.float32)
        total, wanted = 0.0, self._truncated(given) if given else None
        for row, index in enumerate(indices):
            block = slice(row * BLOCK, (row + 1) * BLOCK)
            components[block], heads, draws = self._accepted(seed, index, given, wanted)
            normals[block] = self._normals(_stream(seed, index), normals.shape[1])
            normals[block, heads.shape[1] :] *= self.temperature
            normals[block, : heads.shape[1]] = heads
            total += draws
        return components, normals, total

    def _accepted(
        self, seed: int, index: int, given: Mapping[str, bool], wanted: GivenAttributes | None
    ) -> tuple[Int64[np.ndarray, "B"], Float32[np.ndarray, "B H"], float]:
        """Component and first normals of each latent of a block, and the draws that they count for."""
        size = 1 + len(self.attributes)
        if wanted is None:
            rng = _stream(seed, index, 1)  # a last key of 0 would be the stream of (seed, index)
            return (
                rng.choice(len(self.weights), size=BLOCK, p=self.weights),
                self._normals(rng, size),
                float(BLOCK),
            )
        components, heads = np.empty(BLOCK, dtype=np.int64), np.empty((BLOCK, size), dtype=np.float32)
        pending = np.ones(BLOCK, dtype=bool)
        tries = 0
        for attempt in range(MAX_TRIES // BLOCK if wanted.share > 0 else 0):
            if attempt == _EARLY_TRIES // BLOCK and pending.sum() > BLOCK - BLOCK // _EARLY_SHARE:
                break
            rng = _stream(seed, index, 1 + attempt)
            chosen, normals, accepted = wanted.tried(rng, self._normals(rng, size))
            tries += int(pending.sum())
            taken = pending & accepted
            components[taken], heads[taken] = chosen[taken], normals[taken]
            pending &= ~taken
            if not pending.any():
                return components, heads, tries / wanted.share
        if len(given) > 1:
            hint = "ask for fewer attributes at once"
        else:
            hint = f"{'hardly any' if all(given.values()) else 'nearly every'} training row has it"
        asked = ", ".join(("" if value else "not ") + name for name, value in given.items())
        rate = wanted.share * (BLOCK - pending.sum()) / max(1, tries)
        raise UserError(f"too few draws have {asked} (about {rate:.2g} of all): {hint}")

    def _normals(self, rng: np.random.Generator, size: int) -> Float32[np.ndarray, "B {size}"]:
        normals = rng.standard_normal((BLOCK, size), dtype=np.float32)
        normals[:, 0] = np.abs(normals[:, 0]) if self.sampler in HYPERPLANES else 1
        return normals

    def _fill(
        self,
        latents: Int8[np.ndarray, "K N"],
        components: Int64[np.ndarray, "K"],
        normals: Float32[np.ndarray, "K M"],
    ) -> None:
        size = BLOCK if len(self.weights) == 1 else _ROWS
        taken = np.zeros((size, normals.shape[1]), dtype=np.float32)
        for component in np.unique(components):
            of_component = np.flatnonzero(components == component)
            for start in range(0, len(of_component), size):
                rows = of_component[start : start + size]
                taken[: len(rows)] = normals[rows]
                products = _products(self.factors[component], taken, self.latent_dim)
                latents[rows] = signs(products[: len(rows)])


def _products(
    factor: Float32[np.ndarray, "M M"], normals: Float32[np.ndarray, "R M"], size: int
) -> Float32[np.ndarray, "R {size}"]:
    """The last ``size`` entries of F r, for each row r of ``normals``.

    F is lower triangular, so each strip of its rows needs only the normals up to the strip's end.
    """
    products = np.empty((len(normals), size), dtype=np.float32)
    first = len(factor) - size
    for low, high in itertools.pairwise(np.linspace(first, len(factor), _STRIPS + 1).astype(int)):
        np.matmul(normals[:, :high], factor[low:high, :high].T, out=products[:, low - first : high - first])
    return products


def whole_blocks(count: int) -> int:
    """``count`` rounded up to whole blocks."""
    return -(-count // BLOCK) * BLOCK


def _stream(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def signs(values: Float32[np.ndarray, "K N"]) -> Int8[np.ndarray, "K N"]:
    """+1 where a value is not negative, else -1."""
    positive = (values >= 0).view(np.int8)
    positive <<= 1
    positive -= 1
    return positive
