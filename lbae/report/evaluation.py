"""What an evaluation is given, what it finds, and the report of it."""

import importlib.metadata
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import numpy as np

import lbae
from lbae.core.bundle import Bundle
from lbae.core.fidelity import moment_errors
from lbae.core.health import bit_health
from lbae.core.kernel import moment_sums
from lbae.core.moments import MomentSums
from lbae.core.prior import Prior, Sampler
from lbae.core.samplers import fair_coins, fit
from lbae.errors import UserError, unknown
from lbae.io.artifact import read_manifest
from lbae.io.bundle import load_bundle
from lbae.io.images import image_size
from lbae.io.latent_table import LatentTable, open_latent_table
from lbae.io.moments import load_moments
from lbae.io.source import Source, plan, read_batches
from lbae.io.storage import absolute
from lbae.report.edits import Edits
from lbae.report.features import Metric
from lbae.report.paths import Paths
from lbae.report.rates import psnr
from lbae.report.streams import RECONSTRUCTIONS, Rules, Stream

KIND = "evaluation"
Features = Literal["classifier", "inception"]
# What distances are called, by features: only Inception's have the names that papers know.
NAMES: dict[Features, dict[str, str]] = {
    "classifier": {"frechet": "Fréchet classifier distance", "kernel": "kernel classifier distance"},
    "inception": {"frechet": "FID", "kernel": "KID"},
}
NEAREST = 3  # training images shown below a sample
MIXTURE, COINS = "mixture", "coins"
PRIORS = (MIXTURE, *get_args(Sampler), COINS)


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
    """The artifacts: a bundle, test images, and perhaps the training images, their latents and moment sums."""

    bundle: Bundle
    test: Source
    train: Source | None
    latents: LatentTable | None
    moments: MomentSums | None
    parents: dict[str, str]


def read_inputs(bundle: str, data: str, train_data: str | None, latents: str | None, moments: str | None) -> Inputs:
    """Open what is given.

    UserError when latents or moments are not those that the bundle was fitted from, or test images are too small for it.
    """
    manifest = read_manifest(bundle)
    table = open_latent_table(absolute(latents)) if latents else None
    sums, sums_manifest = load_moments(moments) if moments else (None, None)
    for name, uri, found in (("latents", latents, table and table.manifest), ("moments", moments, sums_manifest)):
        if found and found.fingerprint != manifest.parents[name]:
            raise UserError(f"bundle {bundle} was fitted from {name} {manifest.parents[name]}; {uri} is {found.fingerprint}")
    test, train = plan(data), plan(absolute(train_data)) if train_data else None
    loaded = load_bundle(bundle, "cpu")
    _check_size(test, loaded.codec.config.content_size)
    parents = {"bundle": manifest.fingerprint, "data": test.fingerprint}
    parents |= {"train_data": train.fingerprint} if train else {}
    parents |= {"latents": table.manifest.fingerprint} if table else {}
    parents |= {"moments": sums_manifest.fingerprint} if sums_manifest else {}
    return Inputs(bundle=loaded, test=test, train=train, latents=table, moments=sums, parents=parents)


def _check_size(test: Source, side: int) -> None:
    """UserError where the bundle's images are larger than the first test image; a warning where they are smaller."""
    size = image_size(next(read_batches(test.shards[0]))["bytes"][0].as_py())
    if size is None or size == (side, side):
        return
    text = f"test images of {test.uri} have {size[0]} x {size[1]} pixels, those of the bundle {side} x {side}"
    if min(size) < side:
        raise UserError(f"{text}: give test images of the kind that the bundle was trained on")
    print(f"warning: {text}; they are cropped and resized", file=sys.stderr)


def chosen_priors(names: str) -> tuple[str, ...]:
    """Priors of a comma-separated list; UserError for one that there is not."""
    asked = [name.strip() for name in names.split(",")]
    for name in asked:
        if name not in PRIORS:
            raise unknown("prior", name, PRIORS)
    return tuple(dict.fromkeys(asked))


def make_priors(names: tuple[str, ...], bundle: Bundle, moments: MomentSums | None) -> dict[str, Prior]:
    """The bundle's own prior, and others fitted to the moments, if there are any."""
    made = {MIXTURE: bundle.prior, COINS: fair_coins(bundle.codec.config.latent_dim)}
    return {
        name: made[name] if name in made else fit(name, moments)  # type: ignore[arg-type]
        for name in names
        if name in made or moments
    }


@dataclass(kw_only=True)
class Findings:
    """All that was found; what lacked its input stays empty and is named in ``left_out``, with why."""

    streams: Mapping[str, Stream]
    distances: dict[str, dict[str, dict[str, float]]]
    accuracy: dict[str, float]
    rates: dict[str, list[tuple[float, float]]]
    nearest: dict[str, dict[str, Any]] = field(default_factory=dict)
    neighbours: np.ndarray | None = None
    paths: Mapping[str, Paths] = field(default_factory=dict)
    edits: list[Edits] = field(default_factory=list)
    overlap: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def sampled_moments(self, latent_dim: int) -> dict[str, MomentSums]:
        """Moments of every prior's samples, and of the test images' latents."""
        priors = {name: stream for name, stream in self.streams.items() if name in PRIORS}
        named = {"test latents": self.streams[RECONSTRUCTIONS], **priors}
        return {name: moment_sums(stream.latents, latent_dim) for name, stream in named.items()}


def report(inputs: Inputs, settings: Settings, found: Findings, networks: dict[str, str]) -> dict[str, Any]:
    """Everything in numbers, with all they depend on; ``networks`` are fingerprints of those whose features are compared."""
    config = inputs.bundle.codec.config
    drawn = found.sampled_moments(config.latent_dim)
    return {
        **asdict(settings),
        "names": NAMES[settings.features],
        "images": {name: stream.features.count for name, stream in found.streams.items()},
        "fingerprints": {**inputs.parents, **networks},
        "versions": _versions(),
        "distances": found.distances,
        "classifier_accuracy": found.accuracy,
        "reconstructions": _errors(found.streams[RECONSTRUCTIONS]),
        "rates": _rates(found, config.latent_dim / config.content_size**2),
        "bits": {name: round(value, 4) for name, value in bit_health(drawn["test latents"]).items()},
        "moments_of_samples": _moment_errors(drawn, inputs.moments),
        "nearest": found.nearest,
        "interpolation": {name: path.facts for name, path in found.paths.items()},
        "edits": [{"attribute": e.attribute, "value": e.value, "images": e.images, **e.facts} for e in found.edits],
        "overlap": found.overlap,
        "left_out": found.left_out,
        "seconds": found.seconds,
    }


def _errors(stream: Stream) -> dict[str, float]:
    count = stream.features.count
    means = {name: stream.sums[name] / count for name in ("mse", "ssim", "lpips") if name in stream.sums}
    return {name: round(value, 6) for name, value in means.items()} | {"psnr_db": round(psnr(means["mse"]), 2)}


def _rates(found: Findings, bits: float) -> dict[str, Any]:
    """Bits a pixel of latents, and what image formats take for the same error; None where they never get that bad."""
    shown = found.streams[RECONSTRUCTIONS].shown
    assert shown is not None
    half = len(shown) // 2
    reached = psnr(float(np.square(shown[:half] / 255 - shown[half:] / 255).mean()))
    same = {}
    for form, curve in found.rates.items():
        rates, quality = np.array(sorted(curve, key=lambda point: point[1])).T
        same[form] = round(float(np.interp(reached, quality, rates)), 3) if quality[0] <= reached <= quality[-1] else None
    smallest = {form: round(min(curve)[0], 3) for form, curve in found.rates.items()}
    return {"latents": round(bits, 4), "psnr_db": round(reached, 2), "same_psnr": same, "smallest": smallest}


def _moment_errors(drawn: dict[str, MomentSums], target: MomentSums | None) -> dict[str, dict[str, float]]:
    if target is None:
        return {}
    return {name: moment_errors(sums.mean, sums.second, target.mean, target.second) for name, sums in drawn.items()}


def _versions() -> dict[str, str]:
    names = ("torch", "torchmetrics", "torch-fidelity", "numpy", "ray")
    return {"lbae": lbae.__version__, **{name: importlib.metadata.version(name) for name in names}}
