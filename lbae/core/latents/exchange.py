"""Edit attributes by exchanging the unit vectors that a latent's hyperplane splits.

Latents with the source value of an attribute have one dichotomised Gaussian, with shifts c_s and correlation
R_s; latents with the target value have another, with correlation R_t. A source latent b is given its mean
sides x = E[x | b]. The exchange keeps the hyperplane's normal, in the frame of the symmetric roots, and
replaces the unit vectors by the target's. The sides become

    x' = c + T R_t^(1/2) R_s^(-1/2) (x - c_s)

and the edited latent is sign(x + r s (x' - x)), with s the strength.

At the shifts c the bits' means are the source's plus the difference of both values' adjusted means: what the
value changes while all other attributes stay. The means of all latents with the target differ by more: few
people with a beard wear lipstick.

At T = 1 the map takes N(c_s, R_s) to N(c, R_t). But the Gaussian of a value is wider than the value: its
draws look less like it than images do. A temperature T below 1 keeps edited latents nearer to its middle, and
the reach r carries them past it. Between the two, :mod:`lbae.core.latents.other_attributes` leaves out what
would change other attributes. Latents are edited independently.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float64, Int8, Int64
from scipy import special

from lbae.core.latents.other_attributes import without_other_attributes
from lbae.core.latents.value_models import ValueModels
from lbae.core.prior.dichotomised_gaussian import DichotomisedGaussian
from lbae.errors import UserError

# T of a value of many rows; a lower one reaches a value more often, and keeps less of the image. Correlations
# fitted to few rows are wider still. So T falls, to half at _ROWS_PER_BIT rows per bit.
_TEMPERATURE = 0.9
_ROWS_PER_BIT = 1 / 3
_REACH = 1.15  # r; a longer one reaches a value more often, and keeps less of the image
SURE = 0.75  # the probability of having what is asked at which an edit leaves a latent alone


def exchanged_sides(
    source: DichotomisedGaussian,
    target: DichotomisedGaussian,
    sides: Float64[np.ndarray, "K N"],
    temperature: float = 1.0,
) -> Float64[np.ndarray, "K N"]:
    """Sides x' under the target for sides x under the source."""
    return target.coloured(temperature * source.whitened(sides))


def exchange(
    models: ValueModels,
    names: Sequence[str],
    latents: Int8[np.ndarray, "K N"],
    asked: Mapping[int, int],
    strength: float,
    sure: float = SURE,
) -> Int8[np.ndarray, "K N"]:
    """Set (1) and unset (-1) the attributes at the positions ``asked``, column by column.

    The targets of a column are the value to set, or all values that are not unset if there is none. The
    sources are the values to unset, if the latent has one of them with a probability above 1 - ``SURE``.
    Otherwise they are all values but the targets. A latent moves from the likeliest source to the likeliest
    target. It does not change if it has a target already with a probability of at least ``sure``.
    :func:`confidence` gives these probabilities.

    UserError for two classes of one column to set, or all to unset.
    """
    for values in _columns(models, asked):
        targets = _wanted(models, names, values, asked)
        unset = [int(v) for v in values if models.signs[v] * asked.get(int(models.attributes[v]), 0) < 0]
        latents = _exchange_column(models, latents, values, targets, unset, strength, sure)
    return latents


def confidence(
    models: ValueModels, names: Sequence[str], latents: Int8[np.ndarray, "K N"], asked: Mapping[int, int]
) -> Float64[np.ndarray, "K"]:
    """The probability that latents have what is asked, of the column where it is least.

    By the models' likelihoods at the column's temperature, with all its values as probable beforehand.
    """
    found = []
    for values in _columns(models, asked):
        likely = models.log_likelihoods(values.tolist(), latents)
        found.append(_probability(models, likely, values, _wanted(models, names, values, asked)))
    least: Float64[np.ndarray, " K"] = np.min(found, axis=0)
    return least


def check_classes(models: ValueModels, names: Sequence[str], asked: Mapping[int, int]) -> None:
    """UserError for two classes of one column to set, or all to unset, in the columns that have models."""
    for values in _columns(models, {a: sign for a, sign in asked.items() if len(models.of_column(a))}):
        _wanted(models, names, values, asked)


def _columns(models: ValueModels, asked: Mapping[int, int]) -> list[Int64[np.ndarray, "C"]]:
    """The values of every column that an attribute is asked of, in the columns' order."""
    columns = {int(models.columns[models.of_column(attribute)[0]]) for attribute in asked}
    return [np.flatnonzero(models.columns == column) for column in sorted(columns)]


def _wanted(
    models: ValueModels, names: Sequence[str], values: Int64[np.ndarray, "C"], asked: Mapping[int, int]
) -> list[int]:
    """The values of a column that edited latents may have."""
    signs = {int(v): int(models.signs[v]) * asked.get(int(models.attributes[v]), 0) for v in values}
    targets = [v for v, sign in signs.items() if sign > 0]
    if len(targets) > 1:
        both = " and ".join(repr(names[models.attributes[v]]) for v in targets[:2])
        raise UserError(
            f"attributes {both} are classes of one column, and an image has only one of them; set one"
        )
    if not (left := targets or [v for v, sign in signs.items() if sign == 0]):
        every = ", ".join(repr(names[models.attributes[v]]) for v in values)
        raise UserError(f"attributes {every} are all classes of one column; leave one that is not unset")
    return left


def _probability(
    models: ValueModels,
    likely: Float64[np.ndarray, "C K"],
    values: Int64[np.ndarray, "C"],
    targets: Sequence[int],
) -> Float64[np.ndarray, "K"]:
    """The probability that latents with the log likelihoods ``likely`` of a column's values have a target."""
    of_values = special.softmax(likely / models.temperatures[values[0]], axis=0)
    found: Float64[np.ndarray, " K"] = of_values[np.isin(values, targets)].sum(axis=0)
    return found


def _exchange_column(
    models: ValueModels,
    latents: Int8[np.ndarray, "K N"],
    values: Int64[np.ndarray, "C"],
    targets: Sequence[int],
    unset: Sequence[int],
    strength: float,
    sure: float,
) -> Int8[np.ndarray, "K N"]:
    """Move latents to the likeliest of ``targets``, from the likeliest of ``unset`` or of all others."""
    likely = models.log_likelihoods(values.tolist(), latents)

    def likeliest(some: Sequence[int]) -> Int64[np.ndarray, " K"]:
        chosen = np.flatnonzero(np.isin(values, some))
        found: Int64[np.ndarray, " K"] = values[chosen[likely[chosen].argmax(axis=0)]]
        return found

    others = [v for v in values.tolist() if v not in targets]
    source, target = likeliest(others), likeliest(targets)
    if unset:
        has_one = _probability(models, likely, values, unset) > 1 - SURE
        source = np.where(has_one, likeliest(unset), source)
    moves = _probability(models, likely, values, targets) < sure
    edited = latents.copy()
    for first, second in sorted(set(zip(source[moves].tolist(), target[moves].tolist(), strict=True))):
        rows = moves & (source == first) & (target == second)
        before, after = models.model(first), models.model(second)
        sides = before.sides(latents[rows])
        temperature = _TEMPERATURE / (1 + _ROWS_PER_BIT * latents.shape[1] / models.rows[second])
        goal = exchanged_sides(before, after, sides, temperature)
        goal += models.shifts_from(first, second) - after.shifts
        change = without_other_attributes(models, first, second, goal - sides)
        mixed = sides + _REACH * strength * change
        edited[rows] = np.where(mixed >= 0, np.int8(1), np.int8(-1))
    return edited
