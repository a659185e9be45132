"""A picture that notebooks show: images in a grid."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from lbae.errors import UserError
from lbae.io import images as pixels_of
from lbae.io.picture_file import write_picture

_CELL = 128  # pixels that a small image is enlarged to, at most


@dataclass(frozen=True)
class Picture:
    """Pixels, uint8 (H, W, C); a notebook shows them, :meth:`save` writes them as PNG."""

    pixels: UInt8[np.ndarray, "H W C"]

    def __repr__(self) -> str:
        height, width, _ = self.pixels.shape
        return f"Picture({width} x {height} pixels)"

    def save(self, uri: str) -> None:
        """Write the picture to a path or URI that ends in ``.png``; UserError for another suffix."""
        if not pixels_of.is_picture(uri):
            raise UserError(f"pictures are written as PNG; name the file *.png instead of {uri}")
        write_picture(uri, self._repr_png_())

    def _repr_png_(self) -> bytes:
        return pixels_of.encode_png(self.pixels)


def grid(images: UInt8[np.ndarray, "K H W C"], columns: int | None = None) -> Picture:
    """All images in one picture, row by row; a notebook shows it.

    Args:
        images: uint8 (K, H, W, C), grey (C = 1) or RGB (C = 3), as :class:`lbae.core.bundle.Bundle` gives
            and takes them. Images of less than 128 pixels are enlarged by repeating pixels.
        columns: Images per row. If omitted: about as many as there are rows.

    Raises:
        UserError: ``images`` have another type or shape, there are none, or ``columns`` is less than 1.
    """
    shape: tuple[int, ...] = getattr(images, "shape", ())
    if len(shape) != 4 or shape[3] not in (1, 3) or 0 in shape or images.dtype != np.uint8:
        found = f"{getattr(images, 'dtype', type(images).__name__)} {shape}"
        raise UserError(f"images are {found}; allowed: uint8 (K, H, W, C) with K > 0 and C = 1 or 3")
    if columns is not None and columns < 1:
        raise UserError(f"columns is {columns}; allowed: 1 or more")
    chosen = columns or pixels_of.square_columns(len(images))
    return Picture(pixels_of.grid(images, min(chosen, len(images)), scale=max(1, _CELL // shape[1])))
