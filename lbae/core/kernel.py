"""The kernel of the reduction: packed rows in, exact integer sums of s sT out (see :mod:`lbae.core.moments`).

Attributes and the constant 1 are appended to the packed latents as further bits, so one unpacking gives a matrix B of 0
and 1 with the rows [b; p; q; 1], and C = BT B counts how often two bits are set together. With y = 2 b - 1 and c the counts
of b:

    sum y yT = 4 C_bb - 2 (c 1T + 1 cT) + K,    sum y pT = 2 C_bp - 1 c_pT,    sum y = 2 c - K

No partial sum can overflow. Products of a block of R rows are counts of at most R: exact in int32 below 2**31 and in float32
up to 2**24, and R is 2**15. Pairs of products of 0 and 1 also fit the 16 bits that CPUs without VNNI add them in. The
counts over all blocks are int64; their largest use, 4 C, is exact for fewer than 2**61 rows.
"""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Int8, UInt8
from torch import Tensor

from lbae.core.moments import MomentSums
from lbae.core.packing import check_packed, packed_width

Backend = Literal["int8", "float32"]

BLOCK_ROWS = 2**15  # 50 MB unpacked at N = 1500
# Only the upper triangle is computed, in strips of rows from the diagonal to the right; narrower strips waste less, wider
# ones are quicker a product.
_STRIP = 384
_CPU_INT8 = ("amx_int8", "avx512_vnni", "avx_vnni")


def best_backend(device: torch.device) -> Backend:
    """int8 products with int32 sums where the hardware has them, else float32."""
    if device.type == "cuda":
        return "int8"
    return "int8" if any(torch.cpu.get_capabilities().get(name) for name in _CPU_INT8) else "float32"


def unpack_rows(
    packed: UInt8[np.ndarray, "K B"],
    latent_dim: int,
    present: Bool[np.ndarray, "K A"],
    absent: Bool[np.ndarray, "K A"],
    device: torch.device,
) -> Int8[Tensor, "R C"]:
    """The rows [b; p; q; 1] as 0 and 1, zeros between and behind. R and C are rounded up to what int8 products on GPUs ask.

    ValueError when the packed width is not N's or a padding bit is set.
    """
    check_packed(packed, latent_dim)
    latent_bytes = packed.shape[1]
    flags = np.concatenate([present, absent, np.ones((len(packed), 1), dtype=bool)], axis=1)
    flags = np.packbits(flags, axis=1, bitorder="little")
    rows = np.zeros((-len(packed) % 8 + len(packed), _width(latent_bytes + flags.shape[1])), dtype=np.uint8)
    rows[: len(packed), :latent_bytes] = packed
    rows[: len(packed), latent_bytes : latent_bytes + flags.shape[1]] = flags
    if device.type == "cpu":
        return torch.from_numpy(np.unpackbits(rows, axis=1, bitorder="little").view(np.int8))
    shifts = torch.arange(8, dtype=torch.uint8, device=device)
    bits = (torch.from_numpy(rows).to(device)[:, :, None] >> shifts) & 1
    return bits.reshape(len(rows), -1).to(torch.int8)


def _width(used: int) -> int:
    return -used % 4 + used


class MomentAccumulator:
    """Adds up unpacked blocks; its memory is the sums and one block's product, whatever the number of rows."""

    def __init__(
        self,
        latent_dim: int,
        attributes: tuple[str, ...] = (),
        device: torch.device | str = "cpu",
        backend: Backend | None = None,
    ) -> None:
        self.latent_dim, self.attributes = latent_dim, attributes
        self.device = torch.device(device)
        self.backend: Backend = backend or best_backend(self.device)
        flags = 2 * len(attributes) + 1
        side = 8 * _width(packed_width(latent_dim) + packed_width(flags))
        self._counts = torch.zeros((side, side), dtype=torch.int64, device=self.device)
        first = 8 * packed_width(latent_dim)
        self._used = np.r_[:latent_dim, first : first + flags]

    def add(self, bits: Int8[Tensor, "R C"]) -> None:
        """Add the rows of :func:`unpack_rows`, at most ``BLOCK_ROWS`` at a time."""
        if len(bits) > BLOCK_ROWS:
            raise ValueError(f"a block has {len(bits)} rows; allowed: at most {BLOCK_ROWS}")
        columns = bits.T
        if self.device.type == "cuda":
            columns = columns.contiguous()  # the layout that cuBLAS multiplies int8 in
        if self.backend == "float32":
            columns = columns.float()
        multiply = torch._int_mm if self.backend == "int8" else torch.mm
        for start in range(0, len(columns), _STRIP):
            product = multiply(columns[start : start + _STRIP], columns[start:].T)
            self._counts[start : start + _STRIP, start:] += product.to(torch.int32)

    def sums(self) -> MomentSums:
        """The sums over all rows so far."""
        n = self.latent_dim
        upper = self._counts.cpu().numpy()[np.ix_(self._used, self._used)]
        sums = np.triu(upper) + np.triu(upper, 1).T
        counts, rows = sums[:n, -1].copy(), sums[-1, -1]
        sums[:n, :n] = 4 * sums[:n, :n] - 2 * (counts[:, None] + counts) + rows
        sums[:n, n:] = 2 * sums[:n, n:] - sums[-1, n:]
        sums[n:, :n] = sums[:n, n:].T
        return MomentSums(sums=sums, latent_dim=n, attributes=self.attributes)


def moment_sums(
    packed: UInt8[np.ndarray, "K B"],
    latent_dim: int,
    attributes: tuple[str, ...] = (),
    present: Bool[np.ndarray, "K A"] | None = None,
    absent: Bool[np.ndarray, "K A"] | None = None,
    device: torch.device | str = "cpu",
    backend: Backend | None = None,
) -> MomentSums:
    """Sums over the rows of packed latents and of attribute indicators (set: ``present``, known to be unset: ``absent``)."""
    if present is None or absent is None:
        present = absent = np.zeros((len(packed), len(attributes)), dtype=bool)
    total = MomentAccumulator(latent_dim, attributes, device, backend)
    for start in range(0, len(packed), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        total.add(unpack_rows(packed[block], latent_dim, present[block], absent[block], total.device))
    return total.sums()
