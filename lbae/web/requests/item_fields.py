"""Decoding the images and packed latents of a request: base64 in JSON, the bytes of a multipart file."""

import base64

import numpy as np

from lbae.config import ModelConfig
from lbae.core.latents.packing import packed_width, unpack
from lbae.io.image_formats import UPLOAD_FORMATS
from lbae.io.images import ImageError, decode_image
from lbae.web.answers.error_answers import RequestError

_URL_SAFE, _SPACE = bytes.maketrans(b"-_", b"+/"), b" \t\n\r\v\f"
_PIXELS_PER_SIDE = 64  # of an upload, per pixel of the model's images


def decode_image_field(
    field: str | bytes, config: ModelConfig, max_pixels: int, param: str | None = None
) -> np.ndarray:
    """The image in a field as uint8 (H, W, C) of the content size.

    RequestError unless it is a PNG, JPEG or WebP that is not animated, and of which at most ``max_pixels``
    pixels are decoded. Models of small images allow fewer: 4,096 pixels per pixel of theirs.
    """
    data = field if isinstance(field, bytes) else decode_base64(field, param)
    try:
        allowed = min(max_pixels, (_PIXELS_PER_SIDE * config.content_size) ** 2)
        return decode_image(data, config, allowed, UPLOAD_FORMATS, still=True)
    except ImageError as error:
        raise RequestError(422, f"the image cannot be read: {error}", param) from error


def decode_latent_field(field: str, latent_dim: int, param: str | None = None) -> np.ndarray:
    """The packed latent in a field as +1 and -1, int8 (N,).

    RequestError for a wrong number of bytes, or for padding bits that are set.
    """
    data = decode_base64(field, param)
    if len(data) != packed_width(latent_dim):
        raise RequestError(
            422, f"the latent has {len(data)} bytes; this model's have {packed_width(latent_dim)}", param
        )
    try:
        return unpack(np.frombuffer(data, dtype=np.uint8)[None], latent_dim)[0]
    except ValueError as error:
        raise RequestError(422, str(error), param) from error


def decode_base64(text: str, param: str | None = None) -> bytes:
    """The bytes of a base64 text, in any of the forms that programs write.

    The text may be a ``data:`` URI, wrapped into lines, URL-safe, or unpadded. RequestError for anything
    else.
    """
    if text[:5].lower() == "data:":
        header, _, text = text.partition(",")
        if not header.lower().endswith(";base64"):
            raise RequestError(
                422, "the data: URI is not in base64; allowed: data:image/png;base64,...", param
            )
    try:
        digits = text.encode("ascii").translate(_URL_SAFE, _SPACE).rstrip(b"=")
        digits += b"=" * (-len(digits) % 4)
        return base64.b64decode(digits, validate=True)
    except ValueError as error:  # also binascii.Error and UnicodeEncodeError
        hint = "; URLs are not fetched" if text[:4].lower() == "http" else ""
        raise RequestError(422, f"not valid base64{hint}", param) from error
