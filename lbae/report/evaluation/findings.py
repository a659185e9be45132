"""What an evaluation is given, what it finds, and the report of it."""

import importlib.metadata
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import numpy as np

import lbae
from lbae.core.bundle import Bundle
from lbae.core.moments.bit_health import bit_health
from lbae.core.moments.kernel import moment_sums
from lbae.core.moments.moment_sums import MomentSums
from lbae.core.prior.fidelity import moment_errors
from lbae.core.prior.memory import QUERIES
from lbae.core.prior.prior import Prior, Sampler
from lbae.core.prior.samplers import fair_coins, fit
from lbae.errors import UserError
from lbae.io.artifacts import bundle_artifact as bundle_io
from lbae.io.artifacts.latent_table import LatentTable, open_latent_table
from lbae.io.artifacts.manifest import read_manifest
from lbae.io.artifacts.moments_artifact import load_moments
from lbae.io.images import image_size
from lbae.io.sources.plan import plan
from lbae.io.sources.source import Source, read_batches
from lbae.io.storage.location import absolute
from lbae.report.evaluation.edits import LATENTS, Edits
from lbae.report.evaluation.paths import PAIRS, Paths
from lbae.report.evaluation.rates import psnr
from lbae.report.evaluation.references import Reference
from lbae.report.evaluation.streams import BAD, RECONSTRUCTIONS, TEST, TRAIN, VERSION, Rules, Stream
from lbae.report.features.distances import KERNEL_ROWS
from lbae.report.features.feature_sums import KEPT, Metric

_logger = logging.getLogger(__name__)

KIND = "evaluation"
Features = Literal["classifier", "inception"]
# What distances are called, by features: only Inception's have the names that papers know.
NAMES: dict[Features, dict[str, str]] = {
    "classifier": {"frechet": "Fréchet classifier distance", "kernel": "kernel classifier distance"},
    "inception": {"frechet": "FID", "kernel": "KID"},
}
NEAREST = 3  # training images shown below a sample
MIXTURE, COINS = "mixture", "coins"
EDITS, ACCURACY, BESIDE = "edits", "classifier accuracy", "training images beside samples"
PriorName = Literal["mixture", Sampler, "coins"]
PRIORS: tuple[PriorName, ...] = get_args(PriorName)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a bundle is evaluated: all that a figure depends on but the artifacts."""

    priors: tuple[str, ...]
    features: Features
    metrics: tuple[Metric, ...]
    protocol: Rules
    seed: int


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The artifacts: a bundle, test images, and perhaps the training images, their latents and
    moment sums."""

    bundle: Bundle
    test: Source
    train: Source | None
    latents: LatentTable | None
    moments: MomentSums | None
    parents: dict[str, str]


def read_inputs(
    bundle: str, data: str, train_data: str | None, latents: str | None, moments: str | None
) -> Inputs:
    """Open what is given.

    UserError when latents or moments are not those that the bundle was fitted from, training images not those
    that the latents were encoded from, or test images too small for the bundle.
    """
    manifest = read_manifest(bundle, bundle_io.KIND)
    table = open_latent_table(absolute(latents)) if latents else None
    sums, sums_manifest = load_moments(moments) if moments else (None, None)
    for name, uri, found in (
        ("latents", latents, table and table.manifest),
        ("moments", moments, sums_manifest),
    ):
        if found and found.fingerprint != manifest.parents[name]:
            raise UserError(
                f"bundle {bundle} was fitted from {name} {manifest.parents[name]}; {uri} is"
                f" {found.fingerprint}"
            )
    test, train = plan(data), plan(absolute(train_data)) if train_data else None
    if train and table and train.fingerprint != table.manifest.parents["data"]:
        raise UserError(
            f"latents {latents} were encoded from images {table.manifest.parents['data']}; training images"
            f" {train_data} are"
            f" {train.fingerprint} (names, sizes and times of files count): give those, or leave out"
            f" --latents"
        )
    loaded = bundle_io.load_bundle(bundle, "cpu")
    _check_size(test, loaded.codec.config.content_size)
    parents = {"bundle": manifest.fingerprint, "data": test.fingerprint}
    parents |= {"train_data": train.fingerprint} if train else {}
    parents |= {"latents": table.manifest.fingerprint} if table else {}
    parents |= {"moments": sums_manifest.fingerprint} if sums_manifest else {}
    return Inputs(bundle=loaded, test=test, train=train, latents=table, moments=sums, parents=parents)


def _check_size(test: Source, side: int) -> None:
    """UserError where the bundle's images are larger than the first test image that is one; a warning where
    smaller.
    """
    batches = (batch["bytes"] for shard in test.shards for batch in read_batches(shard))
    size = next((size for cells in batches for cell in cells if (size := image_size(cell.as_py()))), None)
    if size is None:
        raise UserError(f"none of the test images of {test.uri} can be read: give test images")
    if size == (side, side):
        return
    text = f"test images of {test.uri} have {size[0]} x {size[1]} pixels, those of the bundle {side} x {side}"
    if min(size) < side:
        raise UserError(f"{text}: give test images of the kind that the bundle was trained on")
    _logger.warning(f"{text}; they are cropped and resized")


def make_priors(names: tuple[str, ...], bundle: Bundle, moments: MomentSums | None) -> dict[str, Prior]:
    """The bundle's own prior, and others fitted to the moments, if there are any."""
    made = {MIXTURE: bundle.prior, COINS: fair_coins(bundle.codec.config.latent_dim)}
    return {
        name: made[name] if name in made else fit(name, moments)  # type: ignore[arg-type]
        for name in names
        if name in made or moments
    }


def missing(inputs: Inputs, settings: Settings) -> dict[str, str]:
    """What these inputs leave out, by name, with why."""
    left: dict[str, str] = {}
    if inputs.moments is None:
        fitted = [f"prior {name}" for name in settings.priors if name not in (MIXTURE, COINS)]
        left |= dict.fromkeys([*fitted, "moments of samples, slide 16's figures"], "needs --moments")
    if inputs.train is None:
        left |= dict.fromkeys([EDITS, ACCURACY], "needs --train-data with labels or attributes")
        left |= dict.fromkeys(["overlap with training images", _DISTANCE], "needs --train-data")
    elif settings.protocol == "paper":
        left[_DISTANCE] = "the paper's protocol compares with test images only"
    elif "frechet" not in settings.metrics:
        left[_DISTANCE] = "of the metrics only frechet is taken against training images"
    if inputs.latents is None:
        left["nearest training latents"] = "needs --latents"
    if not (inputs.latents and inputs.train and MIXTURE in settings.priors):
        left[BESIDE] = "needs --latents, --train-data and the prior mixture"
    return left


_DISTANCE = "distances to training images"


@dataclass(kw_only=True)
class Findings:
    """All that was found; what lacked its input stays empty and is named in ``left_out``, with why."""

    streams: Mapping[str, Stream]
    references: Mapping[str, Reference]
    distances: dict[str, dict[str, dict[str, float]]]
    accuracy: dict[str, float]
    rates: dict[str, list[tuple[float, float]]]
    nearest: dict[str, dict[str, Any]] = field(default_factory=dict)
    neighbours: np.ndarray | None = None
    paths: Mapping[str, Paths] = field(default_factory=dict)
    edits: list[Edits] = field(default_factory=list)
    overlap: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    hardware: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def sampled_moments(self, latent_dim: int) -> dict[str, MomentSums]:
        """Moments of every prior's samples, and of the test images' latents."""
        priors: dict[str, Stream] = {name: made for name, made in self.streams.items() if name in PRIORS}
        named = {"test latents": self.streams[RECONSTRUCTIONS], **priors}
        return {name: moment_sums(stream.latents, latent_dim) for name, stream in named.items()}


def report(inputs: Inputs, settings: Settings, found: Findings, networks: dict[str, str]) -> dict[str, Any]:
    """Everything in numbers, with all they depend on; ``networks`` are fingerprints of those whose features
    are compared.
    """
    references = {name: reference.features.count for name, reference in found.references.items()}
    config = inputs.bundle.codec.config
    drawn = found.sampled_moments(config.latent_dim)
    return {
        "version": VERSION,
        **asdict(settings),
        "names": NAMES[settings.features],
        "images": references | {name: stream.features.count for name, stream in found.streams.items()},
        "undecodable": _undecodable(found),
        "rows_used": _rows_used(inputs, settings, found),
        "fingerprints": {**inputs.parents, **networks},
        "versions": _versions(),
        "hardware": found.hardware,
        "distances": found.distances,
        "classifier_accuracy": found.accuracy,
        "reconstructions": _errors(found.streams[RECONSTRUCTIONS]),
        "rates": _rates(found, config.latent_dim / config.content_size**2),
        "bits": {name: round(value, 4) for name, value in bit_health(drawn["test latents"]).items()},
        "moments_of_samples": _moment_errors(drawn, inputs.moments),
        "nearest": found.nearest,
        "interpolation": {name: path.facts for name, path in found.paths.items()},
        "edits": [
            {"attribute": e.attribute, "value": e.value, "images": e.images, **e.facts} for e in found.edits
        ],
        "overlap": found.overlap,
        "left_out": found.left_out,
        "seconds": found.seconds,
    }


def _undecodable(found: Findings) -> dict[str, int]:
    """How many images of each source that was looked at are none."""
    seen: dict[str, Mapping[str, float]] = {TEST: found.streams[RECONSTRUCTIONS].sums}
    seen |= {name: reference.sums for name, reference in found.references.items() if name == TRAIN}
    return {name: int(sums[BAD]) for name, sums in seen.items()}


def _rows_used(inputs: Inputs, settings: Settings, found: Findings) -> dict[str, int]:
    """Of how many rows at most each statistic is made that does not use all."""
    tested, used = found.streams[RECONSTRUCTIONS].features.count, {}
    if {"kernel", "precision", "recall"} & set(settings.metrics):
        used["kernel, precision, recall"] = min(KEPT, tested)
    if "kernel" in settings.metrics:
        used["a kernel distance's subset"] = min(KERNEL_ROWS, tested)
    if TRAIN in found.references:
        used["training images against test images"] = min(
            KEPT, tested, found.references[TRAIN].features.count
        )
    if inputs.latents:
        used["nearest training latents"] = min(QUERIES, tested)
    used |= {
        "rates": len(found.streams[RECONSTRUCTIONS].shown),
        "interpolation, pairs": min(PAIRS, tested // 2),
    }
    return used | ({"edits": min(LATENTS, tested)} if found.edits else {})


def _errors(stream: Stream) -> dict[str, float]:
    count = stream.features.count
    means = {name: stream.sums[name] / count for name in ("mse", "ssim", "lpips") if name in stream.sums}
    return {name: round(value, 6) for name, value in means.items()} | {
        "psnr_db": round(psnr(means["mse"]), 2)
    }


def _rates(found: Findings, bits: float) -> dict[str, Any]:
    """Bits a pixel of latents, and what image formats take for the same error; None where they never get that
    bad.
    """
    images, rebuilt = found.streams[RECONSTRUCTIONS].shown.swapaxes(0, 1) / 255
    reached = psnr(float(np.square(images - rebuilt).mean()))
    same = {}
    for form, curve in found.rates.items():
        rates, quality = np.array(sorted(curve, key=lambda point: point[1])).T
        same[form] = (
            round(float(np.interp(reached, quality, rates)), 3)
            if quality[0] <= reached <= quality[-1]
            else None
        )
    smallest = {form: round(min(curve)[0], 3) for form, curve in found.rates.items()}
    return {"latents": round(bits, 4), "psnr_db": round(reached, 2), "same_psnr": same, "smallest": smallest}


def _moment_errors(drawn: dict[str, MomentSums], target: MomentSums | None) -> dict[str, dict[str, float]]:
    if target is None:
        return {}
    return {
        name: moment_errors(sums.mean, sums.second, target.mean, target.second)
        for name, sums in drawn.items()
    }


def _versions() -> dict[str, str]:
    names = ("torch", "torchvision", "torchmetrics", "torch-fidelity", "numpy", "pillow", "ray")
    return {"lbae": lbae.__version__, **{name: importlib.metadata.version(name) for name in names}}
