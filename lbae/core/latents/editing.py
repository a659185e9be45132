"""Set and unset attributes of latents, by exchanging unit vectors or by flipping bits (slide 6)."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float64, Int8

from lbae.core.latents.attribute_names import match_name
from lbae.core.latents.exchange import SURE, check_classes, exchange
from lbae.core.latents.exchange import confidence as exchange_confidence
from lbae.core.latents.strengths import check_strength
from lbae.core.latents.value_models import ValueModels
from lbae.core.moments.attribute_statistics import FALSE_DISCOVERY_RATE, AttributeStatistics
from lbae.errors import UnusableAttribute, UserError, unknown

Method = Literal["exchange", "bits"]

_ROUNDING = 1e-9


def edit(
    statistics: AttributeStatistics,
    values: ValueModels | None,
    latents: Int8[np.ndarray, "K N"],
    set_: Sequence[str] = (),
    unset: Sequence[str] = (),
    strength: float = 1.0,
    method: str = "exchange",
    sure: float = SURE,
) -> Int8[np.ndarray, "K N"]:
    """Return the latents with attributes set and unset by ``method``.

    ``exchange`` needs the ``values`` of the bundle (:func:`lbae.core.latents.exchange.exchange`), ``bits``
    only the statistics (:func:`edit_bits`). Strength 0 changes nothing, 1 gives a typical latent with the
    attributes; ``STRONGEST`` has the largest allowed. An exchange leaves latents alone that have the
    attributes already with a probability of at least ``sure``.

    Raises:
        UserError: for an unknown method or attribute, no attribute, an attribute that is both set and unset,
            two classes of one column to set or all to unset, a strength out of range, or a bundle without
            models of values.
        UnusableAttribute: for an attribute with only one value in the training latents, and with ``bits`` for
            one without a significant lift.
    """
    if method == "bits":
        if values is not None:
            check_classes(values, statistics.names, _asked(statistics, set_, unset, strength, method))
        return edit_bits(statistics, latents, set_, unset, strength)
    if method == "hyperplane":
        raise UserError("method 'hyperplane' was removed; use exchange, which sets attributes more reliably")
    if method != "exchange":
        raise unknown("method", method, get_args(Method))
    asked = _asked(statistics, set_, unset, strength, method)
    return exchange(_modelled(statistics, values, asked), statistics.names, latents, asked, strength, sure)


def move_to_given(
    statistics: AttributeStatistics,
    values: ValueModels | None,
    latents: Int8[np.ndarray, "K N"],
    given: Mapping[str, bool],
) -> Int8[np.ndarray, "K N"]:
    """Edit latents that a prior drew with attributes as ``given``, so that their images show them.

    The prior knows attributes and bits of a component as one Gaussian, which is too wide: on CIFAR-10 a third
    of its draws show the class asked for. Latents that surely have the attributes stay. Attributes without
    models of their values are left as drawn: constant and very rare ones, and all in bundles of earlier
    versions.
    """
    if values is None:
        return latents
    positions = {name: statistics.names.index(match_name(name, statistics.names)) for name in given}
    columns = {name: tuple(values.of_column(position)) for name, position in positions.items()}
    modelled = [name for name in given if columns[name]]
    set_ = [name for name in modelled if given[name]]
    told = {columns[name] for name in set_}  # a class to set says all about its column
    unset = [name for name in modelled if not given[name] and columns[name] not in told]
    return edit(statistics, values, latents, set_, unset) if modelled else latents


def confidence(
    statistics: AttributeStatistics,
    values: ValueModels | None,
    latents: Int8[np.ndarray, "K N"],
    set_: Sequence[str] = (),
    unset: Sequence[str] = (),
) -> Float64[np.ndarray, "K"]:
    """The probability that each latent has attributes set and unset as asked.

    See :func:`lbae.core.latents.exchange.confidence`. Raises as :func:`edit` with the method ``exchange``.
    """
    asked = _asked(statistics, set_, unset, 1.0, "exchange")
    return exchange_confidence(_modelled(statistics, values, asked), statistics.names, latents, asked)


def _modelled(
    statistics: AttributeStatistics, values: ValueModels | None, asked: Iterable[int]
) -> ValueModels:
    """The models of values, if the bundle has them for all attributes at the positions ``asked``."""
    if values is None:
        raise UserError(
            "this bundle has no models of attribute values, which the method exchange needs, because it was"
            " fitted by an earlier version; fit it again, or use the method bits"
        )
    for attribute in asked:
        if not len(values.of_column(attribute)):
            name = statistics.names[attribute]
            raise UnusableAttribute(
                f"attribute {name!r} is too rare: the rows that the bundle's models were fitted to have only"
                f" one value of its column; use the method bits",
                name,
            )
    return values


def edit_bits(
    statistics: AttributeStatistics,
    latents: Int8[np.ndarray, "K N"],
    set_: Sequence[str] = (),
    unset: Sequence[str] = (),
    strength: float = 1.0,
) -> Int8[np.ndarray, "K N"]:
    """Set and unset attributes by flipping the fewest bits, largest lift first.

    The score of a latent b is the sum of d_i b_i. Here d is the sum of the significant lifts of the
    attributes to set, minus that of the attributes to unset. Bits are flipped until the score reaches

        (1 - s) score(b) + s E[score | the attributes as asked]

    with s the ``strength`` in [0, 1]. A latent that has reached it already does not change. Latents are
    edited independently. For several attributes the expectations are added, because the statistics hold no
    joint one.
    """
    direction, expected = np.zeros(latents.shape[1]), 0.0
    for j, sign in _asked(statistics, set_, unset, strength, "bits").items():
        lift = sign * np.where(statistics.significant[j], statistics.lift[j], 0)
        if not lift.any():
            raise UnusableAttribute(
                f"attribute {statistics.names[j]!r} has no significant lift on any bit (false discovery rate"
                f" {FALSE_DISCOVERY_RATE}), so the method bits cannot edit it",
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


def _asked(
    statistics: AttributeStatistics, set_: Sequence[str], unset: Sequence[str], strength: float, method: str
) -> dict[int, int]:
    """Positions of the attributes to set (1) and to unset (-1).

    UserError for no attribute, an attribute in both lists, or a strength out of range.
    """
    check_strength(strength, method)
    if not set_ and not unset:
        raise UserError("no attribute to set or unset was given; give at least one")
    setting, unsetting = ([statistics.index(name) for name in names] for names in (set_, unset))
    if clash := set(setting) & set(unsetting):
        raise UserError(f"attribute {statistics.names[min(clash)]!r} is both set and unset; choose one")
    return dict.fromkeys(setting, 1) | dict.fromkeys(unsetting, -1)
