"""How attributes shift the bits (slide 6).

An attribute is a real variable a = p - q: +1 if set, -1 if known to be unset. Its averages are over the rows
where it is known. The lift d of attribute j is the change of E[y] when a_j goes from -1 to +1 and the other
attributes stay fixed. It comes from the joint least-squares fit of the bits on all attributes, whose normal
equations the moment sums hold.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float64
from scipy import linalg, special

from lbae.core.latents.attribute_names import match_name
from lbae.core.moments.attribute_table import AttributeRow, html_table, text_table
from lbae.core.moments.moment_sums import MomentSums
from lbae.errors import UnusableAttribute

# Expected share of chance among the significant lifts of one attribute (Benjamini and Hochberg 1995).
FALSE_DISCOVERY_RATE = 0.05
_ROUNDING = 1e-9
_RANK = 1e-9


@dataclass(frozen=True, kw_only=True)
class AttributeStatistics:
    """Counts, conditional means and joint lifts of A attributes over N bits.

    ``trusted`` says of each attribute whether edits by ``exchange`` can be trusted; None where the models of
    the values are not known. Used as a mapping, the statistics lead from a name to an
    :class:`~lbae.core.moments.attribute_table.AttributeRow`. They print as a table of these.
    """

    names: tuple[str, ...]
    set_count: Float64[np.ndarray, "A"]
    unset_count: Float64[np.ndarray, "A"]
    mean_if_set: Float64[np.ndarray, "A N"]
    mean_if_unset: Float64[np.ndarray, "A N"]
    lift: Float64[np.ndarray, "A N"]
    lift_error: Float64[np.ndarray, "A N"]
    trusted: tuple[bool, ...] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> AttributeRow:
        """What is known of an attribute; UserError for an unknown name."""
        return self._row(self.names.index(match_name(name, self.names)))

    def _row(self, position: int) -> AttributeRow:
        rows = self.set_count[position] + self.unset_count[position]
        share = float(self.set_count[position] / max(rows, 1))
        trusted = None if self.trusted is None else self.trusted[position]
        return AttributeRow(self.names[position], share, int(rows), trusted)

    def __repr__(self) -> str:
        return text_table([self._row(position) for position in range(len(self))])

    def _repr_html_(self) -> str:
        return html_table([self._row(position) for position in range(len(self))])

    def index(self, name: str) -> int:
        """Position of an attribute in ``names``.

        UserError for an unknown attribute, UnusableAttribute for one with only one value.
        """
        position = self.names.index(match_name(name, self.names))
        if min(self.set_count[position], self.unset_count[position]) == 0:
            raise UnusableAttribute(
                f"attribute {name!r} has only one value in the training latents, so its effect on the bits is"
                f" unknown",
                self.names[position],
            )
        return position

    @property
    def lifted(self) -> list[str]:
        """The attributes with a significant lift on some bit, which can be edited by flipping bits."""
        return [name for name, bits in zip(self.names, self.significant, strict=True) if bits.any()]

    @cached_property
    def significant(self) -> Bool[np.ndarray, "A N"]:
        """Bits with a significant lift, per attribute: two-sided tests at the false discovery rate."""
        size = np.abs(self.lift)
        z = np.where(size > _ROUNDING, _ratio(size, self.lift_error, np.inf), 0)
        return _discoveries(2 * special.ndtr(-z))


def _discoveries(p: Float64[np.ndarray, "A N"]) -> Bool[np.ndarray, "A N"]:
    """Discoveries per row at the false discovery rate (Benjamini and Hochberg 1995).

    Agrees with scipy.stats.false_discovery_control, whose import takes 25 MB per process.
    """
    ranked = np.sort(p, axis=1)
    below = ranked < FALSE_DISCOVERY_RATE * np.arange(1, p.shape[1] + 1) / p.shape[1]
    return p <= np.where(below, ranked, -1).max(axis=1, keepdims=True)


def _ratio(numerator: np.ndarray, denominator: np.ndarray, otherwise: np.ndarray | float) -> np.ndarray:
    known = np.broadcast_to(denominator > 0, numerator.shape)
    return np.where(known, numerator / np.where(denominator > 0, denominator, 1), otherwise)


def attribute_statistics(moments: MomentSums) -> AttributeStatistics:
    """Attribute statistics from moment sums.

    Pairs of attributes that are never known in the same row count as uncorrelated. Where the classes of one
    column sum to a constant, the least-squares solution of least norm is taken. It measures each class
    against the unweighted mean of all classes.
    """
    n, a = moments.latent_dim, len(moments.attributes)
    sums = moments.sums.astype(np.float64)
    p, q = slice(n, n + a), slice(n + a, n + 2 * a)
    set_count, unset_count = sums[p, -1], sums[q, -1]
    known = set_count + unset_count
    mean_a = known_mean(moments)
    mean_y = _ratio(sums[p, :n] + sums[q, :n], known[:, None], 0.0)
    cross = _ratio(sums[p, :n] - sums[q, :n], known[:, None], 0.0) - mean_a[:, None] * mean_y
    covariance, both = attribute_covariance(moments)
    inverse = _inverse(covariance) if a else covariance
    slope = inverse @ cross
    variance = np.maximum(1 - moments.mean**2 - np.einsum("an,ab,bn->n", slope, covariance, slope), 0)
    # Covariance of the errors of ``cross``, per unit of residual variance.
    noise = _ratio(both * covariance, np.outer(known, known), 0.0)
    error = np.sqrt(np.outer(np.maximum(np.diag(inverse @ noise @ inverse), 0), variance))
    return AttributeStatistics(
        names=moments.attributes,
        set_count=set_count,
        unset_count=unset_count,
        mean_if_set=_ratio(sums[p, :n], set_count[:, None], 0.0),
        mean_if_unset=_ratio(sums[q, :n], unset_count[:, None], 0.0),
        lift=2 * slope,
        lift_error=2 * error,
    )


def attribute_covariance(
    moments: MomentSums,
) -> tuple[Float64[np.ndarray, "A A"], Float64[np.ndarray, "A A"]]:
    """The attributes' covariance over the rows where both of a pair are known, and how many these are."""
    n, a = moments.latent_dim, len(moments.attributes)
    sums, mean = moments.sums.astype(np.float64), known_mean(moments)
    p, q = slice(n, n + a), slice(n + a, n + 2 * a)
    both = sums[p, p] + sums[p, q] + sums[q, p] + sums[q, q]
    agree = sums[p, p] - sums[p, q] - sums[q, p] + sums[q, q]
    return _ratio(agree, both, np.outer(mean, mean)) - np.outer(mean, mean), both


def _inverse(covariance: Float64[np.ndarray, "A A"]) -> Float64[np.ndarray, "A A"]:
    """The pseudoinverse over positive eigenvalues only.

    Covariances of pairs that are known on different rows can form an indefinite matrix. Classes that sum to a
    constant, for example, have no variance but some covariance with a column that is known on other rows.
    """
    values, vectors = linalg.eigh(covariance)
    kept = values > _RANK * values[-1]
    return (vectors[:, kept] / values[kept]) @ vectors[:, kept].T


def known_mean(
    moments: MomentSums, otherwise: Float64[np.ndarray, "A"] | float = 0.0
) -> Float64[np.ndarray, "A"]:
    """E[a] of each attribute over the rows where it is known; ``otherwise`` if no row knows it."""
    n, a = moments.latent_dim, len(moments.attributes)
    set_count, unset_count = np.split(moments.sums[n:-1, -1].astype(np.float64), [a])
    return _ratio(set_count - unset_count, set_count + unset_count, otherwise)


def joint_moments(
    moments: MomentSums, attribute_means: Float64[np.ndarray, "A"] | float = 0.0
) -> tuple[Float64[np.ndarray, "D"], Float64[np.ndarray, "D D"]]:
    """E[x] and E[x xT] of x = [a; y], attributes before bits; D = A + N.

    The covariance of an attribute with a bit is taken over the rows where the attribute is known, the bit's
    mean over all rows. A difference between labelled and unlabelled rows thus does not count as an effect of
    the attribute. Pairs of attributes that are never known in the same row count as uncorrelated. An
    attribute without labels has the mean in ``attribute_means`` (0, a fair coin, by default) and no
    covariances.
    """
    n, a = moments.latent_dim, len(moments.attributes)
    sums = moments.sums.astype(np.float64)
    p, q = slice(n, n + a), slice(n + a, n + 2 * a)
    known = sums[p, -1] + sums[q, -1]
    mean, second = np.empty(a + n), np.empty((a + n, a + n))
    mean[:a], mean[a:] = known_mean(moments, attribute_means), moments.mean
    both = sums[p, p] + sums[p, q] + sums[q, p] + sums[q, q]
    agree = sums[p, p] - sums[p, q] - sums[q, p] + sums[q, q]
    second[:a, :a] = _ratio(agree, both, np.outer(mean[:a], mean[:a]))
    mean_a, mean_y = mean[:a, None], mean[a:]
    known_y = _ratio(sums[p, :n] + sums[q, :n], known[:, None], 0.0)
    moved = _ratio(sums[p, :n] - sums[q, :n], known[:, None], 0.0) + mean_a * (mean_y - known_y)
    second[:a, a:] = np.clip(moved, np.abs(mean_a + mean_y) - 1, 1 - np.abs(mean_a - mean_y))
    second[a:, :a], second[a:, a:] = second[:a, a:].T, moments.second
    np.fill_diagonal(second, 1.0)
    return mean, second


def leading_bits(statistics: AttributeStatistics, count: int) -> dict[str, list[dict[str, int | float]]]:
    """The ``count`` bits per attribute with the largest lift in absolute value.

    Each entry holds the bit's lift, its standard error, and the share of +1 with the attribute set and unset.
    Attributes that lift no bit are left out, for example those with only one value.
    """
    chances = (statistics.mean_if_set + 1) / 2, (statistics.mean_if_unset + 1) / 2
    return {
        name: [
            {
                "bit": int(bit),
                "lift": round(float(statistics.lift[j, bit]), 4),
                "error": round(float(statistics.lift_error[j, bit]), 4),
                "p_if_set": round(float(chances[0][j, bit]), 4),
                "p_if_unset": round(float(chances[1][j, bit]), 4),
            }
            for bit in np.argsort(-np.abs(statistics.lift[j]), kind="stable")[:count]
        ]
        for j, name in enumerate(statistics.names)
        if np.abs(statistics.lift[j]).max() > _ROUNDING
    }
