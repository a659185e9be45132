"""What an attribute does to the bits, and the ``bits`` edit (slide 6).

As a real variable an attribute is a = p - q: +1 set, -1 known to be unset, averaged over the rows where it is known. The
lift d of attribute j is the change of E[y] when a_j goes from -1 to +1 with the other attributes held, from the joint
least-squares fit of the bits on all attributes; its normal equations are in the moment sums.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int8
from scipy import linalg

from lbae.core.moments import MomentSums
from lbae.errors import UserError, unknown

_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class AttributeStatistics:
    """Counts, conditional means and joint lifts of A attributes over N bits."""

    names: tuple[str, ...]
    set_count: Float64[np.ndarray, "A"]
    unset_count: Float64[np.ndarray, "A"]
    mean_if_set: Float64[np.ndarray, "A N"]
    mean_if_unset: Float64[np.ndarray, "A N"]
    lift: Float64[np.ndarray, "A N"]
    lift_error: Float64[np.ndarray, "A N"]

    def index(self, name: str) -> int:
        """Position of an attribute that varies; UserError for an unknown or a constant one."""
        if name not in self.names:
            raise unknown("attribute", name, self.names)
        position = self.names.index(name)
        if min(self.set_count[position], self.unset_count[position]) == 0:
            raise UserError(
                f"attribute {name!r} has one value only in the training latents, so nothing is known of its effect"
            )
        return position


def _ratio(numerator: np.ndarray, denominator: np.ndarray, otherwise: np.ndarray | float) -> np.ndarray:
    known = np.broadcast_to(denominator > 0, numerator.shape)
    return np.where(known, numerator / np.where(denominator > 0, denominator, 1), otherwise)


def attribute_statistics(moments: MomentSums) -> AttributeStatistics:
    """Attribute statistics from moment sums.

    Pairs of attributes never known together count as uncorrelated. Where classes of one column sum to a constant the
    least-squares solution of least norm is taken, which lifts each class against the mean of the others.
    """
    n, a = moments.latent_dim, len(moments.attributes)
    sums = moments.sums.astype(np.float64)
    p, q = slice(n, n + a), slice(n + a, n + 2 * a)
    set_count, unset_count = sums[p, -1], sums[q, -1]
    known = set_count + unset_count
    mean_a = _ratio(set_count - unset_count, known, 0.0)
    mean_y = _ratio(sums[p, :n] + sums[q, :n], known[:, None], 0.0)
    cross = _ratio(sums[p, :n] - sums[q, :n], known[:, None], 0.0) - mean_a[:, None] * mean_y
    both = sums[p, p] + sums[p, q] + sums[q, p] + sums[q, q]
    agree = sums[p, p] - sums[p, q] - sums[q, p] + sums[q, q]
    covariance = _ratio(agree, both, np.outer(mean_a, mean_a)) - np.outer(mean_a, mean_a)
    inverse = linalg.pinvh(covariance, rtol=1e-9) if a else covariance
    slope = inverse @ cross
    variance = np.maximum(1 - moments.mean**2 - np.einsum("an,ab,bn->n", slope, covariance, slope), 0)
    error = np.sqrt(_ratio(np.outer(np.maximum(np.diag(inverse), 0), variance), known[:, None], 0.0))
    return AttributeStatistics(
        names=moments.attributes,
        set_count=set_count,
        unset_count=unset_count,
        mean_if_set=_ratio(sums[p, :n], set_count[:, None], 0.0),
        mean_if_unset=_ratio(sums[q, :n], unset_count[:, None], 0.0),
        lift=2 * slope,
        lift_error=2 * error,
    )


def joint_moments(moments: MomentSums) -> tuple[Float64[np.ndarray, "D"], Float64[np.ndarray, "D D"]]:
    """E[x] and E[x xT] of x = [a; y], attributes before bits, each over the rows where it is known.

    Pairs of attributes never known together count as uncorrelated; an attribute that is nowhere known as a fair coin.
    """
    n, a = moments.latent_dim, len(moments.attributes)
    sums = moments.sums.astype(np.float64)
    p, q = slice(n, n + a), slice(n + a, n + 2 * a)
    known = sums[p, -1] + sums[q, -1]
    mean, second = np.empty(a + n), np.empty((a + n, a + n))
    mean[:a], mean[a:] = _ratio(sums[p, -1] - sums[q, -1], known, 0.0), moments.mean
    both = sums[p, p] + sums[p, q] + sums[q, p] + sums[q, q]
    agree = sums[p, p] - sums[p, q] - sums[q, p] + sums[q, q]
    second[:a, :a] = _ratio(agree, both, np.outer(mean[:a], mean[:a]))
    second[:a, a:] = _ratio(sums[p, :n] - sums[q, :n], known[:, None], 0.0)
    second[a:, :a], second[a:, a:] = second[:a, a:].T, moments.second
    np.fill_diagonal(second, 1.0)
    return mean, second


def edit_bits(
    statistics: AttributeStatistics,
    latents: Int8[np.ndarray, "K N"],
    set_: Sequence[str] = (),
    unset: Sequence[str] = (),
    strength: float = 1.0,
) -> Int8[np.ndarray, "K N"]:
    """Set and unset attributes by flipping the fewest bits, largest lift first.

    The score of a latent is the sum of d_i b_i, d being the lifts of the attributes to set less those to unset. Bits are
    flipped until the score reaches (1 - s) score(b) + s E[score | the attributes as asked], s the ``strength`` in [0, 1];
    a latent that is there already stays as it is. Every latent is edited on its own.
    """
    if not 0 <= strength <= 1:
        raise UserError(f"strength is {strength}; allowed: 0 (nothing changes) to 1 (a typical image with the attribute)")
    if not set_ and not unset:
        raise UserError("no attribute to set or unset was given")
    if clash := set(set_) & set(unset):
        raise UserError(f"attribute {min(clash)!r} is both set and unset")
    direction = np.zeros(latents.shape[1])
    expected = 0.0
    for names, sign, means in ((set_, 1, statistics.mean_if_set), (unset, -1, statistics.mean_if_unset)):
        for name in dict.fromkeys(names):
            j = statistics.index(name)
            direction += sign * statistics.lift[j]
            expected += sign * float(statistics.lift[j] @ means[j])
    order = np.argsort(-np.abs(direction), kind="stable")
    wanted = np.where(direction >= 0, np.int8(1), np.int8(-1))
    score = (latents * direction).sum(axis=1)  # not a product of matrices, whose rounding depends on the other rows
    target = (1 - strength) * score + strength * expected
    gain = np.where(latents != wanted, 2 * np.abs(direction), 0.0)[:, order]
    before = score[:, None] + np.cumsum(gain, axis=1) - gain
    flip = np.empty(latents.shape, dtype=bool)
    flip[:, order] = (before < target[:, None] - _ROUNDING) & (gain > 0)
    return np.where(flip, wanted, latents)
