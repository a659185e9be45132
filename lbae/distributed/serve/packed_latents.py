"""Latents on their way between deployments: packed, an eighth of the bytes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

from lbae.core.latents.packing import pack, unpack


@dataclass(frozen=True)
class PackedLatents:
    """Latents as :func:`lbae.core.latents.packing.pack` packs them."""

    rows: UInt8[np.ndarray, "K B"]
    latent_dim: int


def packed(value: Any) -> Any:
    """The value, packed if it is latents: of all that verbs take and give, only latents are int8."""
    if isinstance(value, np.ndarray) and value.dtype == np.int8:
        return PackedLatents(pack(value), value.shape[1])
    return value


def unpacked(value: Any) -> Any:
    """Inverse of :func:`packed`."""
    return unpack(value.rows, value.latent_dim) if isinstance(value, PackedLatents) else value
