"""The images and latents of a request as arrays, read in threads so that the event loop stays free."""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lbae.web.answers.error_answers import RequestError, error_body
from lbae.web.backend.backend import Backend
from lbae.web.limits import Limits
from lbae.web.requests.item_fields import decode_image_field, decode_latent_field
from lbae.web.requests.request_models import ImageOrLatent
from lbae.web.threads import Field, in_reader

# A batch reads images for this long at a time, so that other requests' images are read in between.
_TURN_S = 0.1

# The items that could be read, and by position the errors of those that could not.
Batch = tuple[list[np.ndarray], dict[int, dict[str, Any]]]


async def item_latents(
    items: list[ImageOrLatent], param: str | None, backend: Backend, limits: Limits
) -> np.ndarray:
    """One latent per item, an image or a packed latent, in order; RequestError for the first bad item.

    ``param`` is the field that holds the items; None for one whose image is a field of the request itself.
    """
    config = backend.facts.config
    latents = np.empty((len(items), config.latent_dim), dtype=np.int8)
    images = {}
    for index, item in enumerate(items):
        path = [] if param is None else [param] if len(items) == 1 else [param, str(index)]
        if item.latent is not None:
            unpacked = functools.partial(
                decode_latent_field, latent_dim=config.latent_dim, param=".".join([*path, "latent"])
            )
            (latents[index],) = await in_reader(_all, [item.latent], unpacked)
        elif item.image is not None:
            read = functools.partial(
                decode_image_field,
                config=config,
                max_pixels=limits.max_pixels,
                param=".".join([*path, "image"]),
            )
            (images[index],) = await in_reader(_all, [item.image], read)
    if images:
        latents[list(images)] = await backend.encode(np.stack(list(images.values())))
    return latents


async def batch_images(fields: Sequence[Field], backend: Backend, limits: Limits) -> Batch:
    """The images of a batch, and the errors of those that cannot be read."""
    read = functools.partial(decode_image_field, config=backend.facts.config, max_pixels=limits.max_pixels)
    return await _each(fields, read)


async def batch_latents(fields: Sequence[Field], backend: Backend) -> Batch:
    """The unpacked latents of a batch, and the errors of those that cannot be read."""
    read = functools.partial(decode_latent_field, latent_dim=backend.facts.config.latent_dim)
    return await _each(fields, read)


def _all(fields: list[Field], read: Callable[[Any], np.ndarray]) -> list[np.ndarray]:
    return [read(field) for field in fields]


async def _each(fields: Sequence[Field], read: Callable[[Any], np.ndarray]) -> Batch:
    results: list[np.ndarray | dict[str, Any]] = []
    while len(results) < len(fields):
        results += await in_reader(_turn, fields[len(results) :], len(results), read)
    found = [result for result in results if isinstance(result, np.ndarray)]
    return found, {index: result for index, result in enumerate(results) if isinstance(result, dict)}


def _turn(
    fields: list[Field], first: int, read: Callable[[Any], np.ndarray]
) -> list[np.ndarray | dict[str, Any]]:
    """The items of one turn, and in place of those that cannot be read their errors."""
    results: list[np.ndarray | dict[str, Any]] = []
    until = time.monotonic() + _TURN_S
    for field in fields:
        try:
            results.append(read(field))
        except RequestError as error:
            results.append(error_body(error.status_code, str(error.detail), str(first + len(results))))
        if time.monotonic() > until:
            break
    return results
