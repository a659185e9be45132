"""The bodies of requests. Images and packed latents are base64; in multipart requests images are files."""

import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

MAX_IMAGES = 1024
MAX_ITEMS = 256
_MAX_PROMPT = 32_000  # OpenAI's own limit

Seed = Annotated[int, Field(ge=0, lt=2**63)]
AttributeName = Annotated[str, Field(max_length=4096)]
ModelName = Annotated[str, Field(max_length=256, description="lbae, or the fingerprint of the bundle")]
ImageSize = Annotated[
    str, Field(max_length=256, description="auto, or the bundle's width and height, such as 32x32")
]
VariationStrength = Annotated[
    float, Field(ge=0, le=1, description="0: the image's reconstruction; 1: a sample of similar images")
]
ImageFormat = Literal["png", "jpeg", "webp"]
SeveralFormat = Literal["grid", "png", "jpeg", "webp", "zip", "latents"]


def _check_file(value: Any) -> str | bytes:
    if not isinstance(value, str | bytes):
        raise PydanticCustomError("string_type", "Input should be a valid string")
    return value


# Base64 in JSON, bytes in multipart. Not a union, because pydantic would name its members in ``param``.
ImageFile = Annotated[str | bytes, PlainValidator(_check_file), WithJsonSchema({"type": "string"})]


def _check_no_stream(stream: bool) -> bool:
    if stream:
        raise ValueError("stream is true, but images are not streamed; allowed: false, or leave it out")
    return stream


class RequestBody(BaseModel):
    """A body that refuses unknown fields, and values of another type: "5" is not a number."""

    model_config = ConfigDict(extra="forbid", strict=True)


def _example(fields: Mapping[str, Any]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [dict(fields)]})


def seed_or_random(seed: int | None) -> int:
    """The requested seed, or a random one without any."""
    return secrets.randbelow(2**32) if seed is None else seed


class BodyWithFiles(RequestBody):
    """A body whose images may be multipart files, with the other fields as JSON in the part ``request``."""

    @classmethod
    def of_files(cls, images: list[bytes]) -> dict[str, Any]:
        """The fields that the files fill."""
        return {"images": images}


class FormRequest(RequestBody):
    """A multipart body with a part per field, as OpenAI's client sends it; text becomes numbers."""

    model_config = ConfigDict(strict=False)


class ImageOrLatent(RequestBody):
    """An image file or a packed latent, in base64."""

    image: ImageFile | None = None
    latent: str | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.image is None) == (self.latent is None):
            raise ValueError("give either an image or a latent")
        return self


class SeveralImages(RequestBody):
    """A request for new images. Without a seed a random one is used and returned in X-Seed."""

    n: Annotated[int, Field(ge=1, le=MAX_IMAGES)] = 16
    seed: Seed | None = None
    format: Annotated[
        SeveralFormat,
        Field(
            description="grid: one PNG; png, jpeg, webp: one image (n = 1); zip: PNG files; latents: packed"
            " latents as JSON"
        ),
    ] = "grid"

    @model_validator(mode="after")
    def _single(self) -> Self:
        if self.n > 1 and self.format in ("png", "jpeg", "webp"):
            raise ValueError(
                f"format {self.format} holds one image, but n is {self.n}; ask for grid, zip or latents"
            )
        return self


class SampleRequest(SeveralImages):
    """New images, drawn from the prior."""

    model_config = _example({"n": 16, "seed": 0})

    given: Annotated[
        dict[AttributeName, bool],
        Field(max_length=64, description="attributes that every image has (true) or lacks (false)"),
    ] = {}
    component: Annotated[
        int | None, Field(ge=0, description="draw from this component of the prior only")
    ] = None
    temperature: Annotated[
        float,
        Field(
            ge=0,
            le=2,
            description="below 1, images are more typical and differ less; above 1, they differ more",
        ),
    ] = 1.0


class InterpolateRequest(BodyWithFiles):
    """A path through two or more images or latents, with ``steps`` frames per leg, both its ends included."""

    model_config = _example({"items": [{"image": "iVBOR..."}, {"image": "iVBOR..."}], "steps": 10})

    items: Annotated[list[ImageOrLatent], Field(min_length=2, max_length=16)]
    steps: Annotated[int, Field(ge=2, le=64)] = 10
    loop: Annotated[bool, Field(description="return to the first item")] = False
    seed: Seed = 0
    format: Annotated[
        Literal["strip", "webp", "zip", "latents", "stream"],
        Field(
            description="strip: one PNG; webp: an animation; zip: PNG files; latents: packed latents as JSON;"
            " stream: one frame per line (NDJSON), sent while the next ones are made"
        ),
    ] = "strip"

    @classmethod
    def of_files(cls, images: list[bytes]) -> dict[str, Any]:
        """The files are the waypoints."""
        return {"items": [{"image": image} for image in images]}


class OneItem(BodyWithFiles):
    """A body with one image or latent."""

    item: ImageOrLatent

    @classmethod
    def of_files(cls, images: list[bytes]) -> dict[str, Any]:
        """The first file is the item; further files become an unknown field, which is refused."""
        return {"item": {"image": images[0]}} | ({"items": images} if len(images) > 1 else {})


class VariationRequest(OneItem, SeveralImages):
    """New images that look like one image or latent."""

    model_config = _example({"item": {"image": "iVBOR..."}, "n": 16, "strength": 0.3, "seed": 0})

    strength: VariationStrength = 0.3


class EditRequest(OneItem):
    """Attributes to set and unset on one image or latent."""

    model_config = _example({"item": {"image": "iVBOR..."}, "set": ["label=7"], "strength": 0.8})

    set: Annotated[list[AttributeName], Field(max_length=64)] = []
    unset: Annotated[list[AttributeName], Field(max_length=64)] = []
    strength: Annotated[
        float,
        Field(
            ge=0,
            le=2,
            description="1 gives a typical image with the attributes; at most 2 for the method exchange, 1"
            " for bits",
        ),
    ] = 1.0
    method: Literal["exchange", "bits"] = "exchange"
    until: Annotated[
        Annotated[float, Field(gt=0, lt=1)] | None,
        Field(
            description="in place of a strength: the least at which the image has the attributes with this"
            " confidence; the surest if none reaches it"
        ),
    ] = None
    format: Literal["png", "jpeg", "webp", "latents"] = "png"

    @field_validator("until")
    @classmethod
    def _alone(cls, until: float | None, info: ValidationInfo) -> float | None:
        if until is not None and info.data.get("method") == "bits":
            raise ValueError("until needs the method exchange")
        if until is not None and info.data.get("strength") != 1:
            raise ValueError("until chooses the strength itself; give only one of strength and until")
        return until


class EncodeRequest(BodyWithFiles):
    """Images to encode; the response holds one result or error per image."""

    model_config = _example({"images": ["iVBOR..."]})

    images: Annotated[list[ImageFile], Field(min_length=1, max_length=MAX_ITEMS)]


class ReconstructRequest(EncodeRequest):
    """Images to encode and decode; the response holds one result or error per image."""

    format: ImageFormat = "png"


class DecodeRequest(RequestBody):
    """Packed latents to decode; the response holds one result or error per latent."""

    model_config = _example({"latents": ["AAEC"], "format": "png"})

    latents: Annotated[list[str], Field(min_length=1, max_length=MAX_ITEMS)]
    format: ImageFormat = "png"


class GenerationRequest(RequestBody):
    """The body that ``client.images.generate`` of OpenAI's library sends, plus ``seed``.

    Fields that have no effect here are accepted and ignored. A field that is null counts as left out.
    """

    model_config = _example({"prompt": "label=7", "n": 1, "seed": 0})

    prompt: Annotated[
        str,
        Field(
            max_length=_MAX_PROMPT,
            description="attributes that every image has or lacks, separated by commas: NAME, not NAME, or in"
            ' quotes "NAME"; may be empty',
        ),
    ]
    n: Annotated[int, Field(ge=1, le=MAX_IMAGES)] = 1
    model: ModelName | None = None
    size: ImageSize = "auto"
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


class OpenAIVariationRequest(FormRequest):
    """The form that ``client.images.create_variation`` of OpenAI's library sends, plus seed and strength."""

    image: Annotated[ImageFile, Field(json_schema_extra={"format": "binary"})]
    n: Annotated[int, Field(ge=1, le=MAX_IMAGES)] = 1
    model: ModelName | None = None
    size: ImageSize = "auto"
    response_format: Literal["b64_json"] = "b64_json"
    seed: Seed | None = None
    strength: VariationStrength = 0.3
    user: Annotated[str, Field(description="not used")] = ""
