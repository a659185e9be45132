"""Latents to bytes and back: least significant bit first (Arrow's order), 1 is +1, padding bits 0."""

import numpy as np
from jaxtyping import Int8, UInt8

# Every byte with its bits in reverse order.
_REVERSED = np.packbits(np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little"))


def packed_width(latent_dim: int) -> int:
    """Bytes of one packed latent of N bits: ceil(N / 8)."""
    return (latent_dim + 7) // 8


def pack(latents: Int8[np.ndarray, "K N"]) -> UInt8[np.ndarray, "K B"]:
    """Pack latents of +1 and -1 into ceil(N/8) bytes per row."""
    return np.packbits(latents > 0, axis=1, bitorder="little")


def check_packed(packed: UInt8[np.ndarray, "K B"], latent_dim: int) -> None:
    """Raise ValueError if the width is not ceil(N/8) or a padding bit is set."""
    if packed.shape[1] != packed_width(latent_dim):
        raise ValueError(
            f"packed latents are {packed.shape[1]} bytes wide; N = {latent_dim} needs"
            f" {packed_width(latent_dim)}"
        )
    used = latent_dim % 8
    if used and packed.size and (packed[:, -1] >> used).any():
        raise ValueError(f"padding bits are set in packed latents of N = {latent_dim}; they must be 0")


def unpack(packed: UInt8[np.ndarray, "K B"], latent_dim: int) -> Int8[np.ndarray, "K {latent_dim}"]:
    """Inverse of :func:`pack`, with the errors of :func:`check_packed`."""
    check_packed(packed, latent_dim)
    bits = np.unpackbits(packed, axis=1, count=latent_dim, bitorder="little")
    return (bits.astype(np.int8) << 1) - 1


def to_ubinary(packed: UInt8[np.ndarray, "K B"]) -> UInt8[np.ndarray, "K B"]:
    """The same bits most significant bit first: ``np.packbits(latents > 0, axis=1)``, padding bits 0."""
    return _REVERSED[packed]
