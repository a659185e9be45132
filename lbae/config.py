"""The configuration of a model and its training: frozen, validated, stored as JSON in every model."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal, Self, get_origin

from lbae.errors import UserError

Loss = Literal["mse", "bce"]
Schedule = Literal["cosine", "constant"]
Bottleneck = Literal["bernoulli", "continuous", "gaussian"]
Precision = Literal["float32", "bfloat16"]


MOST_BITS = 65536  # of a latent
MOST_IMAGE_SIZE = 1024  # side of the network's images
_MOST_WIDTH = 65536  # of a layer
_MOST_STAGES = 8
# Newer fields, with the value that older versions implied.
_IMPLIED = (
    ("model", "latent_grid", 1),
    ("train", "adam_beta2", 0.999),
    ("train", "gradients", "float32"),
    ("train", "compiled", False),
)


def _require(condition: bool, name: str, value: object, allowed: str) -> None:
    if not condition:
        raise UserError(f"{name} is {value!r:.200}; allowed: {allowed}")


def _require_types(config: "ModelConfig | TrainConfig") -> None:
    """Raise UserError unless every field has the type that it declares; JSON may hold any other."""
    for one in dataclasses.fields(config):
        value, declared = getattr(config, one.name), get_origin(one.type) or one.type
        kinds = {Literal: (str,), float: (float, int)}.get(declared, (declared,))
        name = one.type.__name__ if isinstance(one.type, type) else str(one.type)
        _require(type(value) in kinds, one.name, value, f"a value of type {name}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Shape of the network and of its images.

    Images are cropped to a centred square and resized to ``content_size`` pixels per side; the network sees
    them with ``padding`` zero pixels on every side. ``latent_grid`` is the side of the latent in cells, each
    with ``latent_dim / latent_grid ** 2`` bits; 1 means one global code, as in the network of 2020.
    ``channels`` holds one width per stride-2 stage. So ``image_size`` is the side of the smallest feature map
    (``latent_grid``, or 4 for a global code) times ``2 ** len(channels)``. A ``bottleneck`` other than
    ``bernoulli`` is a baseline, which passes ``latent_dim // 32`` float32 numbers.
    """

    latent_dim: int = 600
    image_size: int = 32
    padding: int = 0
    image_channels: int = 3
    channels: tuple[int, ...] = (64, 128, 256)
    latent_grid: int = 1
    bottleneck: Bottleneck = "bernoulli"

    def __post_init__(self) -> None:
        _require_types(self)
        _require(
            self.bottleneck in ("bernoulli", "continuous", "gaussian"),
            "bottleneck",
            self.bottleneck,
            "bernoulli, continuous, gaussian",
        )
        least = 1 if self.bottleneck == "bernoulli" else 32
        _require(
            least <= self.latent_dim <= MOST_BITS, "latent_dim", self.latent_dim, f"{least} to {MOST_BITS}"
        )
        _require(self.image_channels in (1, 3), "image_channels", self.image_channels, "1 (grey) or 3 (RGB)")
        _require(
            2 <= len(self.channels) <= _MOST_STAGES
            and all(type(width) is int and 1 <= width <= _MOST_WIDTH for width in self.channels),
            "channels",
            self.channels,
            f"2 to {_MOST_STAGES} widths of 1 to {_MOST_WIDTH}",
        )
        self._check_grid()
        _require(
            0 <= 2 * self.padding < self.image_size,
            "padding",
            self.padding,
            "0 to less than half of image_size",
        )

    def _check_grid(self) -> None:
        grid = self.latent_grid
        _require(1 <= grid <= 64, "latent_grid", grid, "1 (one global code) to 64")
        cells = grid**2
        fitting = max(1, self.latent_dim // cells) * cells
        _require(
            self.latent_dim % cells == 0,
            "latent_dim",
            self.latent_dim,
            f"multiples of {cells}, the cells of latent_grid {grid}, such as {fitting} or {fitting + cells}",
        )
        _require(
            grid == 1 or self.bottleneck == "bernoulli",
            "bottleneck",
            self.bottleneck,
            f"bernoulli with latent_grid {grid}; baselines need latent_grid 1, as with the recipe paper",
        )
        smallest, stages = grid if grid > 1 else 4, len(self.channels)
        size = smallest * 2**stages
        _require(
            self.image_size == size,
            "image_size",
            self.image_size,
            f"{size}, which is {smallest} * 2 ** {stages} stages",
        )
        _require(size <= MOST_IMAGE_SIZE, "image_size", size, f"at most {MOST_IMAGE_SIZE}")

    @property
    def content_size(self) -> int:
        """Side in pixels of the images outside the network."""
        return self.image_size - 2 * self.padding

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the images outside the network."""
        return self.content_size, self.content_size, self.image_channels


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """How the network is trained.

    ``batch_size`` is global: the sum over all workers. ``learning_rate`` is the peak: the rate is warmed up
    over ``warmup_fraction`` of the steps and then decays as a cosine or stays constant. ``adam_beta2`` is
    Adam's decay rate of the squared gradients. With ``flips``, every image is mirrored in about half of the
    epochs. ``gradients`` is the precision at which workers exchange them. ``compiled`` runs the steps of one
    worker as compiled code.
    """

    loss: Loss = "mse"
    batch_size: int = 512
    epochs: int = 100
    learning_rate: float = 1e-3
    adam_beta2: float = 0.999
    schedule: Schedule = "cosine"
    warmup_fraction: float = 0.05
    flips: bool = False
    seed: int = 0
    gradients: Precision = "float32"
    compiled: bool = False

    def __post_init__(self) -> None:
        _require_types(self)
        _require(self.loss in ("mse", "bce"), "loss", self.loss, "mse, bce")
        _require(self.batch_size >= 1, "batch_size", self.batch_size, "1 or more")
        _require(self.epochs >= 1, "epochs", self.epochs, "1 or more")
        _require(0 < self.learning_rate < 1, "learning_rate", self.learning_rate, "above 0, below 1")
        _require(0 <= self.adam_beta2 < 1, "adam_beta2", self.adam_beta2, "0 to less than 1")
        _require(0 <= self.warmup_fraction < 1, "warmup_fraction", self.warmup_fraction, "0 to less than 1")
        _require(self.schedule in ("cosine", "constant"), "schedule", self.schedule, "cosine, constant")
        _require(0 <= self.seed < 2**63, "seed", self.seed, "0 to 2**63 - 1")
        _require(self.gradients in ("float32", "bfloat16"), "gradients", self.gradients, "float32, bfloat16")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """All options that decide the result of a training run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; tuples become lists.

        Newer fields are left out if they have the value that older versions implied, so that older models
        keep their fingerprints.
        """
        tree = dataclasses.asdict(self)
        for section, name, before in _IMPLIED:
            if tree[section][name] == before:
                del tree[section][name]
        tree["model"]["channels"] = list(self.model.channels)
        return tree

    @classmethod
    def from_dict(cls, tree: dict[str, Any]) -> Self:
        """Inverse of :meth:`to_dict`; UserError if the tree is not of its form."""
        try:
            model = {**tree["model"], "channels": tuple(tree["model"]["channels"])}
            return cls(model=ModelConfig(**model), train=TrainConfig(**tree["train"]))
        except (KeyError, TypeError) as error:
            raise UserError(f"the configuration lacks a field, or has one too many: {error}") from error

    def replace(self, **changes: Any) -> Self:
        """A copy with fields of either section changed by name; ``None`` leaves a field unchanged."""
        sections = {}
        for section in ("model", "train"):
            current = getattr(self, section)
            names = {f.name for f in dataclasses.fields(current)}
            picked = {k: v for k, v in changes.items() if k in names and v is not None}
            sections[section] = dataclasses.replace(current, **picked)
        return dataclasses.replace(self, **sections)
