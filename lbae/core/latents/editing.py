"""Setting and unsetting attributes of latents (slide 6), by flipping bits or by moving the hyperplane."""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float64, Int8

from lbae.core.latents.normals import Normals
from lbae.core.moments.attribute_statistics import FALSE_DISCOVERY_RATE, AttributeStatistics
from lbae.errors import UnusableAttribute, UserError, unknown

Method = Literal["bits", "hyperplane"]

_ROUNDING = 1e-9


def edit(
    statistics: AttributeStatistics,
    normals: Normals,
    latents: Int8[np.ndarray, "K N"],
    set_: Sequence[str] = (),
    unset: Sequence[str] = (),
    strength: float = 1.0,
    method: str = "bits",
    seed: int = 0,
) -> Int8[np.ndarray, "K N"]:
    """Return the latents with attributes set and unset by ``method``.

    Only the method ``hyperplane`` uses the seed. UserError for an unknown method.
    """
    if method == "bits":
        return edit_bits(statistics, latents, set_, unset, strength)
    if method == "hyperplane":
        return edit_hyperplane(statistics, normals, latents, set_, unset, strength, seed)
    raise unknown("method", method, get_args(Method))


def edit_bits(
    statistics: AttributeStatistics,
    latents: Int8[np.ndarray, "K N"],
    set_: Sequence[str] = (),
    unset: Sequence[str] = (),
    strength: float = 1.0,
) -> Int8[np.ndarray, "K N"]:
    """Set and unset attributes by flipping the fewest bits, largest lift first.

    The score of a latent is the sum of d_i b_i, d being the significant lifts of the attributes to set less
    those to unset. Bits are flipped until the score reaches (1 - s) score(b) + s E[score | the attributes as
    asked], s the ``strength`` in [0, 1]; a latent that is there already stays as it is. Every latent is
    edited on its own. For several attributes the expectations are added; the statistics hold no joint one.
    """
    direction, expected = np.zeros(latents.shape[1]), 0.0
    for j, sign in _asked(statistics, set_, unset, strength).items():
        lift = sign * np.where(statistics.significant[j], statistics.lift[j], 0)
        if not lift.any():
            raise UnusableAttribute(
                f"attribute {statistics.names[j]!r} has no significant lift on any bit (false discovery rate"
                f" {FALSE_DISCOVERY_RATE}), so there is none to flip for it",
                statistics.names[j],
            )
        direction += lift
        expected += float(lift @ (statistics.mean_if_set if sign > 0 else statistics.mean_if_unset)[j])
    order = np.argsort(-np.abs(direction), kind="stable")
    wanted = np.where(direction >= 0, np.int8(1), np.int8(-1))
    # Not a matrix product: its rounding depends on the other rows.
    score = (latents * direction).sum(axis=1)
    target = (1 - strength) * score + strength * expected
    gain = np.where(latents != wanted, 2 * np.abs(direction), 0.0)[:, order]
    before = score[:, None] + np.cumsum(gain, axis=1) - gain
    flip = np.empty(latents.shape, dtype=bool)
    flip[:, order] = (before < target[:, None] - _ROUNDING) & (gain > 0)
    return np.where(flip, wanted, latents)


def edit_hyperplane(
    statistics: AttributeStatistics,
    normals: Normals,
    latents: Int8[np.ndarray, "K N"],
    set_: Sequence[str] = (),
    unset: Sequence[str] = (),
    strength: float = 1.0,
    seed: int = 0,
) -> Int8[np.ndarray, "K N"]:
    """Set and unset attributes by moving each latent's hyperplane across the attributes' unit vectors V_a.

    Its normal is the mean normal of the latent with all attributes asked for on their other side, moved by
    :func:`move_across`. Where the bits say clearly that a latent has the attributes as asked, that normal
    must lie close to them, and few bits change. Every latent is edited on its own.
    """
    asked = _asked(statistics, set_, unset, strength)
    if not has_unit_vectors(statistics, normals):
        raise UserError(
            "this bundle was fitted without unit vectors for its attributes, which the hyperplane edit moves"
            " across: fit it again, or use the bits method"
        )
    other_side = np.zeros(len(statistics.names), dtype=np.int8)
    other_side[list(asked)] = [-sign for sign in asked.values()]
    vectors = normals.factor[1 + latents.shape[1] + np.array(list(asked))]
    edited = np.empty((len(latents), len(normals.factor)))
    for row, latent in enumerate(latents):
        edited[row] = move_across(
            vectors, normals.mean(latent, np.random.default_rng(seed), other_side), strength
        )
    return normals.latents(edited)


def has_unit_vectors(statistics: AttributeStatistics, normals: Normals) -> bool:
    """Whether the normals have unit vectors of these attributes to move across.

    Those of older bundles have none.
    """
    return len(normals.factor) == 1 + normals.latent_dim + len(statistics.names)


def move_across(
    vectors: Float64[np.ndarray, "a M"], normal: Float64[np.ndarray, "M"], strength: float
) -> Float64[np.ndarray, "M"]:
    """Return the normal r moved toward the mirrored side of unit vectors V_a; s = 1 reaches it (slide 6).

    It moves along the u_a = V_a - <V_a, V_0> V_0, so <V_0, r>, the boundary's side, stays as it is, by the
    shortest way on which every <V_a, r> becomes (1 - 2 s) <V_a, r>.
    """
    along = vectors.copy()
    # V_0 = e_0; so <V_a, u_b> = <u_a, u_b>, and the Gram matrix of the u gives the steps along them.
    along[:, 0] = 0
    return normal - along.T @ np.linalg.solve(along @ along.T, 2 * strength * (vectors @ normal))


def _asked(
    statistics: AttributeStatistics, set_: Sequence[str], unset: Sequence[str], strength: float
) -> dict[int, int]:
    """Positions of the attributes to set (1) and to unset (-1).

    UserError for no attribute, an attribute in both lists, or a strength outside [0, 1].
    """
    if not 0 <= strength <= 1:
        raise UserError(
            f"strength is {strength}; allowed: 0 (nothing changes) to 1 (a typical image with the attribute)"
        )
    if not set_ and not unset:
        raise UserError("no attribute to set or unset was given")
    setting, unsetting = ([statistics.index(name) for name in names] for names in (set_, unset))
    if clash := set(setting) & set(unsetting):
        raise UserError(f"attribute {statistics.names[min(clash)]!r} is both set and unset")
    return dict.fromkeys(setting, 1) | dict.fromkeys(unsetting, -1)
