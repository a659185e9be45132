"""The bodies of requests. Images and packed latents are base64; in a multipart request images are files."""

import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

MAX_IMAGES = 1024
MAX_ITEMS = 256
_MAX_PROMPT = 32_000  # as OpenAI's

Seed = Annotated[int, Field(ge=0, lt=2**63)]
AttributeName = Annotated[str, Field(max_length=4096)]
ImageFormat = Literal["png", "jpeg", "webp"]


def _check_file(value: Any) -> str | bytes:
    if not isinstance(value, str | bytes):
        raise PydanticCustomError("string_type", "Input should be a valid string")
    return value


# Base64 in JSON, else the bytes of a multipart file. A union of both would say in errors which one failed.
ImageFile = Annotated[str | bytes, PlainValidator(_check_file), WithJsonSchema({"type": "string"})]


def _check_no_stream(stream: bool) -> bool:
    if stream:
        raise ValueError("stream is true, but images are not streamed; allowed: false, or leave it out")
    return stream


class RequestBody(BaseModel):
    """Refuses unknown fields, and values of another type: "5" is not a number."""

    model_config = ConfigDict(extra="forbid", strict=True)


def _example(fields: Mapping[str, Any]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [dict(fields)]})


def seed_or_random(seed: int | None) -> int:
    """The seed that was asked for, else a random one."""
    return secrets.randbelow(2**32) if seed is None else seed


class BodyWithFiles(RequestBody):
    """A body whose images may be files of a multipart request; the other fields are its field ``request``."""

    @classmethod
    def of_files(cls, images: list[bytes]) -> dict[str, Any]:
        """The fields that the files fill."""
        return {"images": images}


class ImageOrLatent(RequestBody):
    """An image file or a packed latent, in base64."""

    image: ImageFile | None = None
    latent: str | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.image is None) == (self.latent is None):
            raise ValueError("give an image or a latent, and not both")
        return self


class SampleRequest(RequestBody):
    """How many images, and their seed; without a seed a random one is used and returned."""

    model_config = _example({"n": 16, "seed": 0})

    n: Annotated[int, Field(ge=1, le=MAX_IMAGES)] = 16
    seed: Seed | None = None
    given: Annotated[
        dict[AttributeName, bool],
        Field(max_length=64, description="attributes that every image has (true) or lacks (false)"),
    ] = {}
    component: Annotated[
        int | None, Field(ge=0, description="draw from this component of the prior only")
    ] = None
    format: Annotated[
        Literal["grid", "png", "jpeg", "webp", "zip", "latents"],
        Field(description="one PNG grid, one image (n = 1), a zip of PNG files, or packed latents"),
    ] = "grid"

    @model_validator(mode="after")
    def _single(self) -> Self:
        if self.n > 1 and self.format in ("png", "jpeg", "webp"):
            raise ValueError(
                f"format {self.format} is one image, and n is {self.n}; ask for grid, zip or latents"
            )
        return self


class InterpolateRequest(BodyWithFiles):
    """A path through two or more images or latents; ``steps`` frames per leg, with both its ends."""

    model_config = _example({"items": [{"image": "iVBOR..."}, {"image": "iVBOR..."}], "steps": 10})

    items: Annotated[list[ImageOrLatent], Field(min_length=2, max_length=16)]
    steps: Annotated[int, Field(ge=2, le=64)] = 10
    loop: Annotated[bool, Field(description="return to the first item")] = False
    seed: Seed = 0
    format: Annotated[
        Literal["strip", "webp", "zip", "latents", "stream"],
        Field(
            description="PNG strip, animated WebP, zip of PNG files, packed latents, or frames as NDJSON"
            " while they are made"
        ),
    ] = "strip"

    @classmethod
    def of_files(cls, images: list[bytes]) -> dict[str, Any]:
        """The files are the waypoints."""
        return {"items": [{"image": image} for image in images]}


class EditRequest(BodyWithFiles):
    """Attributes to set and unset on one image or latent."""

    model_config = _example({"item": {"image": "iVBOR..."}, "set": ["label=7"], "strength": 0.8})

    item: ImageOrLatent
    set: Annotated[list[AttributeName], Field(max_length=64)] = []
    unset: Annotated[list[AttributeName], Field(max_length=64)] = []
    strength: Annotated[
        float,
        Field(ge=0, le=2, description="1 gives a typical image with the attributes; bits takes no more"),
    ] = 1.0
    method: Literal["exchange", "bits"] = "exchange"
    format: Literal["png", "jpeg", "webp", "latents"] = "png"

    @classmethod
    def of_files(cls, images: list[bytes]) -> dict[str, Any]:
        """The first file is the item; more are refused as an unknown field."""
        return {"item": {"image": images[0]}} | ({"items": images} if len(images) > 1 else {})


class EncodeRequest(BodyWithFiles):
    """Images to encode, with a result or an error for each."""

    model_config = _example({"images": ["iVBOR..."]})

    images: Annotated[list[ImageFile], Field(min_length=1, max_length=MAX_ITEMS)]


class ReconstructRequest(EncodeRequest):
    """Images to encode and decode, with a result or an error for each."""

    format: ImageFormat = "png"


class DecodeRequest(RequestBody):
    """Packed latents to decode, with a result or an error for each."""

    model_config = _example({"latents": ["AAEC"], "format": "png"})

    latents: Annotated[list[str], Field(min_length=1, max_length=MAX_ITEMS)]
    format: ImageFormat = "png"


class GenerationRequest(RequestBody):
    """What ``client.images.generate`` of OpenAI's library sends; ``seed`` is an addition.

    Fields that change nothing here are accepted and ignored; null means that a field is left out.
    """

    model_config = _example({"prompt": "label=7", "n": 1, "seed": 0})

    prompt: Annotated[
        str,
        Field(
            max_length=_MAX_PROMPT,
            description='attributes of every image, separated by commas: NAME, not NAME, or in quotes "NAME";'
            " may be empty",
        ),
    ]
    n: Annotated[int, Field(ge=1, le=MAX_IMAGES)] = 1
    model: Annotated[
        str | None, Field(max_length=256, description="lbae, or the fingerprint of the bundle")
    ] = None
    size: Annotated[
        str, Field(max_length=256, description="auto, or the bundle's own width and height: 32x32")
    ] = "auto"
    response_format: Literal["b64_json"] = "b64_json"
    output_format: ImageFormat = "png"
    seed: Seed | None = None
    stream: Annotated[
        bool, AfterValidator(_check_no_stream), Field(description="only false: images are not streamed")
    ] = False
    background: Annotated[Literal["auto", "opaque"], Field(description="not used")] = "auto"
    moderation: Annotated[str, Field(description="not used")] = "auto"
    output_compression: Annotated[int, Field(ge=0, le=100, description="not used")] = 100
    partial_images: Annotated[Literal[0], Field(description="only 0: images are not streamed")] = 0
    quality: Annotated[str, Field(description="not used")] = "auto"
    style: Annotated[str, Field(description="not used")] = "vivid"
    user: Annotated[str, Field(description="not used")] = ""

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, fields: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in fields.items() if value is not None}
