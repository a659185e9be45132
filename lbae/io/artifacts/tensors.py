"""Tensors of an artifact, in the safetensors format, checked against what their reader needs.

A stranger may have written the file. Before its bytes are looked at, its header is limited, which the library
would parse at any length up to 100 MB. Shapes and types are checked before anything is computed from them.
"""

from collections.abc import Collection, Mapping

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from lbae.io.storage.location import Location
from lbae.io.storage.stored_file import damaged, stored_bytes

MOST_BYTES = 2**36
"""Largest file that is read, far beyond any that a job writes."""
MOST_HEADER_BYTES = 2**20
"""Longest header of a file that is read."""
_LENGTH_BYTES = 8

Shape = tuple[int | str, ...]
"""Lengths of the axes. A name stands for any length, the same wherever it occurs in a file."""


def read_tensors(location: Location, needed: Mapping[str, tuple[str, Shape]]) -> dict[str, np.ndarray]:
    """The tensors of a file, checked as by :func:`parse_tensors`."""
    return parse_tensors(stored_bytes(location, MOST_BYTES), location, needed)


def parse_tensors(
    data: bytes,
    location: Location,
    needed: Mapping[str, tuple[str, Shape]],
    optional: Collection[str] = (),
) -> dict[str, np.ndarray]:
    """The tensors in ``data``, the content of the file at ``location``.

    Args:
        data: The file's content.
        location: The file, for messages.
        needed: Data type and shape by name, of all tensors that the file may hold.
        optional: Names among them that may be missing.

    Raises:
        UserError: The file is damaged, a tensor is missing, unknown, or of another type or shape, or a number
            is not finite.
    """
    if int.from_bytes(data[:_LENGTH_BYTES], "little") > MOST_HEADER_BYTES:
        raise damaged(location, f"its header is longer than {MOST_HEADER_BYTES} bytes")
    try:
        found = safetensors.numpy.load(data)
    except (SafetensorError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise damaged(location, f"it is no safetensors file ({error!r:.200})") from error
    missing = needed.keys() - found.keys() - {*optional}
    if odd := sorted(missing) or sorted(found.keys() - needed.keys()):
        raise damaged(location, f"it {'lacks' if missing else 'also holds'} the tensor {odd[0]!r:.100}")
    lengths: dict[str, int] = {}
    for name, (dtype, shape) in needed.items():
        if name not in found:
            continue
        array = found[name]
        fits = array.dtype == dtype and array.ndim == len(shape)
        wanted = [
            lengths.setdefault(axis, n) if isinstance(axis, str) else axis
            for axis, n in zip(shape, array.shape, strict=False)
        ]
        if not fits or list(array.shape) != wanted:
            raise damaged(location, f"{name} is {array.dtype} {array.shape}; allowed: {dtype} {shape}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise damaged(location, f"{name} holds numbers that are not finite")
    return found
