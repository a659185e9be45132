"""Rate and error of images in lossy formats."""

import io
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from jaxtyping import UInt8
from PIL import Image

Images = UInt8[np.ndarray, "K H W C"]
Format = Literal["jpeg", "webp"]
FORMATS: tuple[Format, ...] = get_args(Format)
_QUALITIES = (1, 5, 10, 20, 40, 60, 80, 95)


def psnr(mse: float) -> float:
    """Peak signal-to-noise ratio in dB of a mean squared error of pixels in [0, 1]."""
    return float(-10 * np.log10(max(mse, 1e-12)))


def rate_curve(
    images: Images, form: Format, qualities: Sequence[int] = _QUALITIES
) -> list[tuple[float, float]]:
    """Bits per pixel, headers included, and PSNR of images in a lossy format, from the lowest quality up."""
    curve = []
    for quality in qualities:
        size, error = 0, 0.0
        for image in images:
            stored, shown = recompressed(image, form, quality=quality)
            size += stored
            error += float(np.square(image / 255.0 - shown / 255.0).mean())
        curve.append((8 * size / images[..., 0].size, psnr(error / len(images))))
    return curve


def recompressed(
    image: UInt8[np.ndarray, "H W C"], form: Format, **options: int
) -> tuple[int, UInt8[np.ndarray, "H W C"]]:
    """The number of bytes of an image in a lossy format, and the image decoded from them."""
    buffer = io.BytesIO()
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    picture.save(buffer, form, **options)
    with Image.open(buffer) as again:
        return len(buffer.getvalue()), np.array(again.convert(picture.mode)).reshape(image.shape)
