"""The strength of an edit, chosen by what the edited image shows.

The edit is tried at rising strengths. Each result is decoded and encoded again, so that its bits say what
the image shows, and the least strength is taken whose bits have the attributes with enough confidence.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int8, UInt8

from lbae.core.latents.editing import confidence, edit
from lbae.core.latents.strengths import STRENGTHS, least_strengths
from lbae.core.latents.value_models import ValueModels
from lbae.core.moments.attribute_statistics import AttributeStatistics
from lbae.core.network.codec import Codec
from lbae.errors import UserError


class GuidedEdit(NamedTuple):
    """Edited latents and their images, the strengths taken, and the confidence that each reaches."""

    latents: Int8[np.ndarray, "K N"]
    images: UInt8[np.ndarray, "K H W C"]
    strengths: Float64[np.ndarray, "K"]
    confidence: Float64[np.ndarray, "K"]


def edit_until(
    codec: Codec,
    statistics: AttributeStatistics,
    values: ValueModels | None,
    latents: Int8[np.ndarray, "K N"],
    set_: Sequence[str],
    unset: Sequence[str],
    until: float,
) -> GuidedEdit:
    """Edit latents at the least strength at which their images have the attributes with confidence ``until``.

    A latent that no strength takes there gets the strength of most confidence.

    UserError for an ``until`` outside (0, 1); otherwise raises as :func:`lbae.core.latents.editing.edit`.
    """
    check_until(until)
    tried = edit_at_all(statistics, values, latents, set_, unset)
    images = codec.decode(tried)
    found = confidence(statistics, values, codec.encode(images), set_, unset)
    taken, strengths = least_strengths(found, until)
    return GuidedEdit(tried[taken], images[taken], strengths, found[taken])


def check_until(until: float) -> None:
    """UserError for an ``until`` outside (0, 1)."""
    if not 0 < until < 1:
        raise UserError(f"until is {until}; allowed: above 0, below 1, such as 0.9")


def edit_at_all(
    statistics: AttributeStatistics,
    values: ValueModels | None,
    latents: Int8[np.ndarray, "K N"],
    set_: Sequence[str],
    unset: Sequence[str],
) -> Int8[np.ndarray, "SK N"]:
    """The latents edited at each of the S strengths, all of one strength together.

    Latents that have the attributes already are edited too: they may have them less surely than asked.
    """
    return np.concatenate(
        [
            edit(statistics, values, latents, set_, unset, float(strength), sure=np.inf)
            for strength in STRENGTHS
        ]
    )
