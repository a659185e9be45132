"""The contents of responses: images in every format, packed latents, and one result or error per item."""

import base64
import io
import json
import math
import zipfile
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
from fastapi import Response
from fastapi.responses import JSONResponse

from lbae.config import ModelConfig
from lbae.core.latents.packing import pack
from lbae.io.images import encode_image, encode_png, encode_webp, grid, square_grid
from lbae.web.answers.error_answers import RequestError
from lbae.web.backend.backend import Backend
from lbae.web.memory import IMAGE_COPIES, MemoryShare
from lbae.web.requests.request_models import ImageFormat, SeveralFormat
from lbae.web.threads import in_writer

MEDIA = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}

_SCALE = 2  # enlargement of the images in a grid or a strip
STREAM_FRAMES = 64  # decoded at a time
# Bytes per pixel of images of noise while they are made into an answer (docs/measurements.md): as arrays, in
# Pillow, as files, and as text.
_IMAGE_BYTES = {"grid": 10, "strip": 10, "zip": 7, "animation": 16, "png": 17, "jpeg": 17, "webp": 17}
_LATENT_BYTES = 3  # per bit: as array, in base64 and in hex, as JSON
_LARGE = 256  # pixels: frames of an animation are enlarged up to this side, and at most four times


def image_bytes(count: int, config: ModelConfig) -> int:
    """The memory of images of the content size, as they go into the codec or come from it."""
    return IMAGE_COPIES * count * math.prod(config.image_shape)


def answer_bytes(kind: str, count: int, config: ModelConfig, allowed: int, param: str) -> int:
    """The memory that a response of ``count`` images or latents takes while it is made.

    ``kind`` is a request's format, or ``animation``. RequestError when the response would hold more than
    ``allowed`` pixels. Latents and streams have no such limit: latents have no pixels, and a stream holds few
    frames at a time.
    """
    side, latents = config.content_size, _LATENT_BYTES * count * config.latent_dim
    if kind == "latents":
        return latents
    if kind == "stream":
        return latents + image_bytes(min(count, STREAM_FRAMES), config)
    frames, scale = count, _SCALE if kind in ("grid", "strip") else 1
    if kind == "animation":
        frames, scale = 2 * count - 2, _frame_scale(side)
    if (pixels := frames * (scale * side) ** 2) > allowed:
        raise RequestError(
            422,
            f"the response would hold {pixels} pixels ({frames} images of {scale * side} x {scale * side});"
            f" allowed: {allowed} pixels; ask for fewer images, another format, or latents",
            param,
        )
    return latents + _IMAGE_BYTES[kind] * pixels


def _frame_scale(side: int) -> int:
    return max(1, min(4, _LARGE // side))


async def latents_response(
    latents: np.ndarray, kind: SeveralFormat, backend: Backend, share: MemoryShare
) -> Response:
    """The images of latents in one of the formats for several images, or the latents themselves."""
    if kind == "latents":
        return JSONResponse({"latents": latent_fields(latents)})
    return await in_writer(share, _images_response, await backend.decode(latents), kind)


def _images_response(images: np.ndarray, kind: SeveralFormat) -> Response:
    if kind == "grid":
        return grid_response(images)
    if kind == "zip":
        return zip_response(images)
    return picture_response(images[0], kind)  # type: ignore[arg-type]


def picture_response(image: np.ndarray, kind: ImageFormat) -> Response:
    """One image file."""
    return Response(encode_image(image, kind), media_type=MEDIA[kind])


def grid_response(images: np.ndarray) -> Response:
    """One PNG of all images in about as many rows as columns."""
    return Response(encode_png(square_grid(images)), media_type=MEDIA["png"])


def strip_response(images: np.ndarray) -> Response:
    """One PNG of all images side by side."""
    return Response(encode_png(grid(images, len(images), _SCALE)), media_type=MEDIA["png"])


def animation_response(frames: np.ndarray) -> Response:
    """An animated WebP that runs forward and back."""
    return Response(encode_webp(frames, _frame_scale(frames.shape[1])), media_type=MEDIA["webp"])


def zip_response(images: np.ndarray) -> Response:
    """A zip of PNG files, 0000.png and so on; the same images give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:  # PNG is compressed already
        for index, image in enumerate(images):
            file.writestr(zipfile.ZipInfo(f"{index:04d}.png"), encode_png(image))
    return Response(buffer.getvalue(), media_type="application/zip")


def latent_fields(latents: np.ndarray) -> list[dict[str, str]]:
    """Packed latents in base64 and in hex."""
    return [{"base64": base64.b64encode(row).decode(), "hex": row.tobytes().hex()} for row in pack(latents)]


def image_fields(images: np.ndarray, kind: ImageFormat) -> list[dict[str, str]]:
    """Images in base64."""
    return [
        {"image": base64.b64encode(encode_image(image, kind)).decode(), "media_type": MEDIA[kind]}
        for image in images
    ]


async def lines(frames: AsyncIterator[np.ndarray], share: MemoryShare) -> AsyncIterator[str]:
    """Frames as NDJSON, one line per frame, each as soon as it is encoded."""
    index = 0
    async for chunk in frames:
        for frame in chunk:
            (field,) = await in_writer(share, image_fields, frame[None], "png")
            yield json.dumps({"frame": index, **field}) + "\n"
            index += 1


def merged(good: list[dict[str, Any]], errors: dict[int, dict[str, Any]], count: int) -> dict[str, Any]:
    """The body of a batch response: one result or error per item, in the order of the request."""
    rest = iter(good)
    return {"results": [errors[index] if index in errors else next(rest) for index in range(count)]}
