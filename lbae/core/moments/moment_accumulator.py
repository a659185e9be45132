"""The kernel of the reduction: packed rows in, exact integer sums of s sT out.

:mod:`lbae.core.moments.moment_sums` defines s.

Attributes and the constant 1 are appended to the packed latents as further bits. One unpacking then gives a
matrix B of 0 and 1 with the rows [b; p; q; 1], and C = BT B counts how often two of these bits are both set.
With y = 2 b - 1 and c the counts of b:

    sum y yT = 4 C_bb - 2 (c 1T + 1 cT) + K,    sum y pT = 2 C_bp - 1 c_pT,    sum y = 2 c - K

No sum can overflow. In a block of R rows, products are counts of at most R = 2**15: exact in int32 below
2**31 and in float32 up to 2**24. CPUs without VNNI add pairs of products in 16 bits, which pairs of 0 and 1
also fit. The counts over all blocks are int64; the largest term, 4 C, is exact for fewer than 2**61 rows.
"""

import numpy as np
import torch
from jaxtyping import Bool, Int8, UInt8
from torch import Tensor

from lbae.core.latents.packing import check_packed, packed_width
from lbae.core.moments.moment_sums import MomentSums

BLOCK_ROWS = 2**15  # 50 MB unpacked at N = 1500
# Only the upper triangle is computed, in strips of rows from the diagonal to the right. Narrow strips waste
# fewer products, wide ones take less time per product.
_STRIP = 512
_CPU_INT8 = ("amx_int8", "avx512_vnni", "avx_vnni")


def has_int8_products() -> bool:
    """Whether this CPU natively multiplies int8 with int32 sums; otherwise float32 is faster."""
    return any(torch.cpu.get_capabilities().get(name) for name in _CPU_INT8)


class MomentAccumulator:
    """Adds up moment sums block by block on CPUs, in memory for one unpacked block and the sums."""

    def __init__(
        self, latent_dim: int, attributes: tuple[str, ...] = (), block_rows: int = BLOCK_ROWS
    ) -> None:
        self.latent_dim, self.attributes, self.block_rows = latent_dim, attributes, _round_up(block_rows)
        self._int8 = has_int8_products()
        flags = 2 * len(attributes) + 1
        self._bytes = packed_width(latent_dim), packed_width(flags)
        width = _round_up(sum(self._bytes))
        first = 8 * self._bytes[0]
        self._used = np.r_[:latent_dim, first : first + flags]
        self._bits = torch.empty((width, 8, self.block_rows), dtype=torch.uint8)
        self._counts = torch.zeros((8 * width, 8 * width), dtype=torch.int64)

    def unpack(
        self,
        packed: UInt8[np.ndarray, "K B"],
        present: Bool[np.ndarray, "K A"],
        absent: Bool[np.ndarray, "K A"],
    ) -> Int8[Tensor, "C R"]:
        """Unpack a block to columns of 0 and 1 that hold [b; p; q; 1], padded with zeros.

        The next call overwrites the result.

        Raises:
            ValueError: if the packed width is not ceil(N/8), a padding bit is set, or the block has more than
                ``block_rows`` rows.
        """
        check_packed(packed, self.latent_dim)
        rows, (latent_bytes, flag_bytes) = len(packed), self._bytes
        if rows > self.block_rows:
            raise ValueError(f"a block has {rows} rows; allowed: at most {self.block_rows}")
        flags = np.concatenate([present, absent, np.ones((rows, 1), dtype=bool)], axis=1)
        columns = torch.zeros((len(self._bits), _round_up(rows)), dtype=torch.uint8)
        columns[:latent_bytes, :rows] = torch.from_numpy(np.require(packed, requirements="W")).T
        columns[latent_bytes : latent_bytes + flag_bytes, :rows] = torch.from_numpy(
            np.packbits(flags, axis=1, bitorder="little")
        ).T
        bits = self._bits[:, :, : columns.shape[1]]
        shifts = torch.arange(8, dtype=torch.uint8)[:, None]
        torch.bitwise_right_shift(columns[:, None], shifts, out=bits)
        return bits.bitwise_and_(1).flatten(0, 1).view(torch.int8)

    def add(self, bits: Int8[Tensor, "C R"]) -> None:
        """Add a block, as returned by :meth:`unpack`."""
        columns, multiply = (bits, torch._int_mm) if self._int8 else (bits.float(), torch.mm)
        for start in range(0, len(columns), _STRIP):
            product = multiply(columns[start : start + _STRIP], columns[start:].T)
            self._counts[start : start + _STRIP, start:] += product.to(torch.int32)

    def sums(self) -> MomentSums:
        """The moment sums over all rows added so far."""
        n = self.latent_dim
        sums = self._counts.numpy()[np.ix_(self._used, self._used)]
        for row in range(len(sums)):
            sums[row:, row] = sums[row, row:]
        counts, rows = sums[:n, -1].copy(), sums[-1, -1]
        # In place, because allocating a dozen matrices can cost more than all products of a task.
        latents, flags = sums[:n, :n], sums[:n, n:]
        latents *= 4
        latents -= 2 * counts
        latents -= 2 * counts[:, None]
        latents += rows
        flags *= 2
        flags -= sums[-1, n:]
        sums[n:, :n] = flags.T
        return MomentSums(sums=sums, latent_dim=n, attributes=self.attributes)


def _round_up(size: int) -> int:
    """``size`` rounded up to a multiple of 8; of a width in bytes, so that the last strip is not narrow."""
    return -size % 8 + size


def sum_packed(
    packed: UInt8[np.ndarray, "K B"],
    latent_dim: int,
    attributes: tuple[str, ...] = (),
    present: Bool[np.ndarray, "K A"] | None = None,
    absent: Bool[np.ndarray, "K A"] | None = None,
) -> MomentSums:
    """Moment sums of packed latents; attributes are set (``present``) or known to be unset (``absent``)."""
    if present is None or absent is None:
        present = absent = np.zeros((len(packed), len(attributes)), dtype=bool)
    total = MomentAccumulator(latent_dim, attributes, min(BLOCK_ROWS, max(1, len(packed))))
    for start in range(0, len(packed), total.block_rows):
        block = slice(start, start + total.block_rows)
        total.add(total.unpack(packed[block], present[block], absent[block]))
    return total.sums()
