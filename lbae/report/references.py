"""What evaluations of one data set share, kept in a cache by fingerprint: its classifier, and features of real images."""

from dataclasses import dataclass

import numpy as np
import safetensors.numpy

from lbae.config import ModelConfig
from lbae.io.artifact import MANIFEST, begin, digest, digest_json, publish, read_manifest
from lbae.io.storage import Location
from lbae.report import classifier
from lbae.report.classifier import Classifier
from lbae.report.features import FeatureSums

KIND = "features"
_FILE = "features.safetensors"


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Features of real images, and sums over these images."""

    features: FeatureSums
    sums: dict[str, float]


class Cache:
    """A folder of classifiers and features; each named by all that it depends on."""

    def __init__(self, folder: Location, config: ModelConfig) -> None:
        self.folder, self.shape = folder, list(config.image_shape)

    def classifier(self, data: str) -> tuple[Classifier, str] | None:
        """The classifier of a source by its fingerprint, and the classifier's own; None when there is none yet."""
        place = self._classifier(data)
        return classifier.load_classifier(str(place)) if (place / MANIFEST).exists() else None

    def keep_classifier(self, data: str, network: Classifier, rows: int) -> str:
        """Keep the classifier of a source; its fingerprint."""
        place = str(self._classifier(data))
        begin(place, classifier.KIND, {"data": data}, classifier.SETTINGS, overwrite=True)
        return classifier.save_classifier(place, network, {"data": data}, rows)

    def reference(self, data: str, network: str, rules: str) -> Reference | None:
        """What a network saw of a source, by the fingerprints of both; None when it is not known yet."""
        place = self._reference(data, network, rules)
        if not (place / MANIFEST).exists():
            return None
        manifest, found = read_manifest(str(place), KIND), safetensors.numpy.load((place / _FILE).read_bytes())
        features = FeatureSums(count=manifest.rows, **{**found, "kept": [found["kept"]]})
        return Reference(features=features, sums=manifest.result["sums"])

    def keep_reference(self, data: str, network: str, rules: str, reference: Reference) -> None:
        """Keep what a network saw of a source."""
        place, features = self._reference(data, network, rules), reference.features
        parents, config = {"data": data, "network": network}, {"rules": rules}
        begin(str(place), KIND, parents, config, overwrite=True)
        arrays = {"total": features.total, "products": features.products, "kept": np.concatenate(features.kept)}
        (place / _FILE).write_bytes(content := safetensors.numpy.save(arrays))
        publish(
            str(place),
            KIND,
            fingerprint=digest(content),
            parents=parents,
            config=config,
            rows=features.count,
            files=[_FILE],
            result={"sums": reference.sums},
        )

    def _classifier(self, data: str) -> Location:
        return self.folder / "classifiers" / digest_json([data, self.shape, classifier.SETTINGS])

    def _reference(self, data: str, network: str, rules: str) -> Location:
        return self.folder / "features" / digest_json([data, network, rules, self.shape])
