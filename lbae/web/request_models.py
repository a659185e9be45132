"""What requests hold. Images and packed latents are base64; a multipart request brings images as files
instead.
"""

import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_IMAGES = 1024
MAX_ITEMS = 256

Seed = Annotated[int, Field(ge=0, lt=2**63)]
Name = Annotated[str, Field(max_length=256)]  # of an attribute
Picture = Literal["png", "jpeg", "webp"]


class Fields(BaseModel):
    """Fields that nobody knows are refused, and values of another type: "5" is no number."""

    model_config = ConfigDict(extra="forbid", strict=True)


def _example(fields: Mapping[str, Any]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [dict(fields)]})


def chosen(seed: int | None) -> int:
    """The seed that was asked for, or one by chance."""
    return secrets.randbelow(2**32) if seed is None else seed


class WithFiles(Fields):
    """A body whose images may come as files of a multipart request, the rest as its JSON field
    ``request``."""

    @classmethod
    def of_files(cls, images: list[str]) -> dict[str, Any]:
        """The fields that base64 images of files fill."""
        return {"images": images}


class Source(Fields):
    """An image file or a packed latent, in base64."""

    image: str | None = None
    latent: str | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.image is None) == (self.latent is None):
            raise ValueError("give an image or a latent, and not both")
        return self


class SampleRequest(Fields):
    """How many images, and the seed that decides them; without a seed one is drawn and returned."""

    model_config = _example({"n": 16, "seed": 0})

    n: Annotated[int, Field(ge=1, le=MAX_IMAGES)] = 16
    seed: Seed | None = None
    given: Annotated[
        dict[Name, bool], Field(max_length=64, description="attributes that every image has or has not")
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


class InterpolateRequest(WithFiles):
    """A path through two or more images or latents, ``steps`` frames a leg with both its ends."""

    model_config = _example({"items": [{"image": "iVBOR..."}, {"image": "iVBOR..."}], "steps": 10})

    items: Annotated[list[Source], Field(min_length=2, max_length=16)]
    steps: Annotated[int, Field(ge=2, le=64)] = 10
    loop: Annotated[bool, Field(description="return to the first item")] = False
    seed: Seed = 0
    format: Annotated[
        Literal["strip", "webp", "zip", "latents", "stream"],
        Field(
            description="PNG strip, animated WebP, zip of PNG files, packed latents, or frames as NDJSON"
            " while made"
        ),
    ] = "strip"

    @classmethod
    def of_files(cls, images: list[str]) -> dict[str, Any]:
        """The files are the waypoints."""
        return {"items": [{"image": image} for image in images]}


class EditRequest(WithFiles):
    """Attributes to set and unset on one image or latent."""

    model_config = _example({"item": {"image": "iVBOR..."}, "set": ["label=7"], "strength": 0.8})

    item: Source
    set: Annotated[list[Name], Field(max_length=64)] = []
    unset: Annotated[list[Name], Field(max_length=64)] = []
    strength: Annotated[float, Field(ge=0, le=1)] = 1.0
    method: Literal["bits", "hyperplane"] = "bits"
    seed: Annotated[Seed, Field(description="of the hyperplane method's draws")] = 0
    format: Literal["png", "jpeg", "webp", "latents"] = "png"

    @classmethod
    def of_files(cls, images: list[str]) -> dict[str, Any]:
        """The first file is the item; more are refused as an unknown field."""
        return {"item": {"image": images[0]}} | ({"items": images} if len(images) > 1 else {})


class EncodeRequest(WithFiles):
    """Images to encode, each with a result or an error of its own."""

    model_config = _example({"images": ["iVBOR..."]})

    images: Annotated[list[str], Field(min_length=1, max_length=MAX_ITEMS)]


class ReconstructRequest(EncodeRequest):
    """Images to send through the bottleneck and back, each with a result or an error of its own."""

    format: Picture = "png"


class DecodeRequest(Fields):
    """Packed latents to decode, each with a result or an error of its own."""

    model_config = _example({"latents": ["AAEC"], "format": "png"})

    latents: Annotated[list[str], Field(min_length=1, max_length=MAX_ITEMS)]
    format: Picture = "png"


class GenerationRequest(Fields):
    """What ``client.images.generate`` of OpenAI's library sends; ``seed`` is an extra."""

    model_config = _example({"prompt": "label=7", "n": 1, "seed": 0})

    prompt: Annotated[
        str,
        Field(
            max_length=4000,
            description="attributes of every image, between commas: NAME or not NAME; may be empty",
        ),
    ]
    n: Annotated[int, Field(ge=1, le=MAX_IMAGES)] = 1
    model: Annotated[
        str | None, Field(max_length=256, description="lbae, or the fingerprint of what answers")
    ] = None
    size: Annotated[
        str, Field(max_length=256, description="auto, or the bundle's own width and height: 32x32")
    ] = "auto"
    response_format: Literal["b64_json"] = "b64_json"
    output_format: Picture = "png"
    seed: Seed | None = None
    user: Annotated[str | None, Field(description="part of OpenAI's API; not used")] = None
