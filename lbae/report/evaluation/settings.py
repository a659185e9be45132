"""How a bundle is evaluated: priors, features, metrics and protocol, by name."""

from dataclasses import dataclass
from typing import Literal, get_args

from lbae.core.bundle import Bundle
from lbae.core.moments.moment_sums import MomentSums
from lbae.core.prior.prior import Prior, Sampler
from lbae.core.prior.samplers import fair_coins, fit_sampler
from lbae.report.evaluation.streams import Rules
from lbae.report.features.feature_sums import Metric

Features = Literal["classifier", "inception"]
# The names of distances: papers' names are only for distances in Inception's features.
DISTANCE_NAMES: dict[Features, dict[str, str]] = {
    "classifier": {"frechet": "Fréchet classifier distance", "kernel": "kernel classifier distance"},
    "inception": {"frechet": "FID", "kernel": "KID"},
}
MIXTURE, COINS = "mixture", "coins"
PriorName = Literal["mixture", Sampler, "coins"]
PRIORS: tuple[PriorName, ...] = get_args(PriorName)


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """Everything except the artifacts that an evaluation's figures depend on."""

    priors: tuple[str, ...]
    temperatures: tuple[float, ...] = ()
    features: Features
    metrics: tuple[Metric, ...]
    protocol: Rules
    seed: int


def make_priors(
    names: tuple[str, ...],
    bundle: Bundle,
    moments: MomentSums | None,
    temperatures: tuple[float, ...] = (),
) -> dict[str, Prior]:
    """The priors by name: the bundle's own, fair coins, and if moments are given, others fitted to them.

    Then the bundle's own at each temperature. UserError for one out of range.
    """
    made = {MIXTURE: bundle.prior, COINS: fair_coins(bundle.codec.config.latent_dim)}
    priors = {
        name: made[name] if name in made else fit_sampler(name, moments)  # type: ignore[arg-type]
        for name in names
        if name in made or moments
    }
    return priors | {at_temperature(t): bundle.prior.at(t) for t in temperatures}


def at_temperature(temperature: float) -> str:
    """The name of samples of the bundle's own prior at a temperature."""
    return f"{MIXTURE} at {temperature:g}"
