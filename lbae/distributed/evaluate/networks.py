"""The networks of an evaluation: a classifier, the network whose features are compared, and LPIPS."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lbae.config import ModelConfig
from lbae.distributed.evaluate.classifier_task import trained_classifier
from lbae.errors import UserError
from lbae.io.sources.source import Source
from lbae.report.evaluation.cache import Cache, decoding
from lbae.report.evaluation.edits import EDITS
from lbae.report.evaluation.feature_extraction import FeatureNetwork
from lbae.report.evaluation.findings import ACCURACY, NEEDS_LABELS
from lbae.report.evaluation.settings import Features
from lbae.report.features.classifier import Classifier
from lbae.report.features.classifier_training import SETTINGS
from lbae.report.features.inception import load_inception
from lbae.report.features.labelled_images import NoUsableLabels
from lbae.report.features.pixels import load_lpips

if TYPE_CHECKING:
    from torchmetrics.image import LearnedPerceptualImagePatchSimilarity


@dataclass(frozen=True, kw_only=True)
class Networks:
    """The networks, fingerprints of classifier and Inception, and what is left out, with the reason."""

    features: FeatureNetwork
    classifier: Classifier | None
    lpips: "LearnedPerceptualImagePatchSimilarity | None"
    fingerprints: dict[str, str]
    left_out: dict[str, str]


def load_networks(train: Source | None, config: ModelConfig, features: Features, cache: Cache) -> Networks:
    """Load the networks; the classifier comes from the cache or is trained on the training images.

    Raises:
        UserError: ``features`` asks for a classifier, and none can be trained.
    """
    classifier, reason = None, NEEDS_LABELS
    fingerprints: dict[str, str] = {}
    left_out: dict[str, str] = {}
    if train is not None:
        try:
            classifier, fingerprints["classifier"] = _classifier(train, config, cache)
        except NoUsableLabels as error:
            reason = str(error)
            left_out = dict.fromkeys([EDITS, ACCURACY], reason)
    network: FeatureNetwork
    if features == "inception":
        network, fingerprints["inception"] = load_inception()
    elif classifier is not None:
        network = classifier
    else:
        raise UserError(
            f"--features classifier cannot be used: {reason}; --features inception needs no labels"
        )
    lpips = load_lpips(config)
    if lpips is None:
        left_out["LPIPS"] = (
            "needs colour images of 32 pixels or more, and AlexNet's weights in torch's cache (TORCH_HOME)"
        )
    return Networks(
        features=network, classifier=classifier, lpips=lpips, fingerprints=fingerprints, left_out=left_out
    )


def _classifier(train: Source, config: ModelConfig, cache: Cache) -> tuple[Classifier, str]:
    """The classifier of a source's attributes, and its fingerprint."""
    made_of = {**decoding(train, config), **SETTINGS}
    if found := cache.classifier(made_of):
        return found
    trained = trained_classifier(train, config)
    return trained, cache.keep_classifier(made_of, trained)
