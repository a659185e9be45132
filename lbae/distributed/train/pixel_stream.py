"""The rows of a stream of Arrow arrays, without copies and without Python objects per row."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Shaped

from lbae.errors import LbaeError


class PixelStream:
    """The rows of fixed-size binary arrays of any length, in order; ``nulls`` counts the null ones so far.

    The first array is asked for at once, so that whoever makes the arrays starts before they are needed.
    """

    def __init__(self, arrays: Iterator[pa.FixedSizeBinaryArray]) -> None:
        self._arrays = (array for array in arrays if len(array))
        self._rest = next(self._arrays, None)
        self.nulls = 0

    def take(self, most: int) -> tuple[Shaped[np.ndarray, "V"], Bool[np.ndarray, "K"]]:
        """The next 1 to ``most`` rows: the values of those that are not null, and a mask that marks them.

        The values are of :func:`row_type`, and views of Arrow's memory if no row is null.

        Raises:
            LbaeError: The stream has ended.
        """
        if self._rest is None:
            raise LbaeError(
                "the stream has fewer images than the source had when it was planned: the source was changed"
                " meanwhile; run the job again"
            )
        array, rest = self._rest[:most], self._rest[most:]
        self._rest = rest if len(rest) else next(self._arrays, None)
        self.nulls += array.null_count
        return _values(array)

    def drain(self) -> None:
        """Read all that is left."""
        while self._rest is not None:
            self.nulls += self._rest.null_count
            self._rest = next(self._arrays, None)


def row_type(size: int) -> np.dtype:
    """The type of a row of ``size`` bytes.

    NumPy copies elements of it whole, at the speed of memcpy and without holding the GIL. Rows as an axis of
    bytes are slower, and with torch's ``index_copy_`` 50 times as slow.
    """
    return np.dtype(f"V{size}")


def _values(array: pa.FixedSizeBinaryArray) -> tuple[np.ndarray, np.ndarray]:
    size, good = array.type.byte_width, array.is_valid().to_numpy(zero_copy_only=False)
    if not good.any():  # then Arrow need not have a buffer
        return np.empty(0, dtype=row_type(size)), good
    data, skipped = array.buffers()[1], array.offset * size
    rows = np.frombuffer(data, dtype=row_type(size), count=len(array), offset=skipped)
    return rows if good.all() else rows[good], good
