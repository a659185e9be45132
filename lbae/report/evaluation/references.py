"""What evaluations of one data set share, kept in a cache: its classifier, and features of real images.

An entry is named by all that it depends on: ``KIND/NAME.json`` says what that is, and names the file of its
arrays by their digest. Both are written whole or not at all, and no file of arrays ever changes, so
evaluations share a cache at any time.
"""

import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.numpy

from lbae.config import ModelConfig
from lbae.errors import LbaeError
from lbae.io.sources.source import Source
from lbae.io.storage.digests import digest, digest_json
from lbae.io.storage.location import Location
from lbae.report.evaluation.streams import VERSION
from lbae.report.features.classifier import Classifier, from_weights, to_weights
from lbae.report.features.feature_sums import FeatureSums

Facts = Mapping[str, Any]


def decoding(source: Source, config: ModelConfig) -> dict[str, Any]:
    """All that a source's images depend on as they are decoded for a bundle, and the version of the
    protocols.
    """
    versions = {name: importlib.metadata.version(name) for name in ("pillow", "torch")}
    return {"version": VERSION, "data": source.fingerprint, "shape": list(config.image_shape), **versions}


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Features of real images, and sums over these images."""

    features: FeatureSums
    sums: dict[str, float]


class Cache:
    """A folder of classifiers and references. What they depend on is any JSON object.

    Reading raises LbaeError where a file is not what was written.
    """

    def __init__(self, folder: Location) -> None:
        self._folder = folder

    def classifier(self, made_of: Facts) -> tuple[Classifier, str] | None:
        """A classifier and its fingerprint; None when there is none yet."""
        found = self._read("classifiers", made_of)
        return (from_weights(*found), fingerprint(*found)) if found else None

    def keep_classifier(self, made_of: Facts, network: Classifier) -> str:
        """Keep a classifier; its fingerprint."""
        shape, weights = to_weights(network)
        self._write("classifiers", made_of, shape, weights)
        return fingerprint(shape, weights)

    def reference(self, made_of: Facts) -> Reference | None:
        """What is known of some images; None when nothing is yet."""
        found = self._read("features", made_of)
        if found is None:
            return None
        facts, content = found
        arrays = safetensors.numpy.load(content)
        features = FeatureSums(count=facts["count"], **{**arrays, "kept": [arrays["kept"]]})
        return Reference(features=features, sums=facts["sums"])

    def keep_reference(self, made_of: Facts, reference: Reference) -> None:
        """Keep what is known of some images."""
        features = reference.features
        arrays = {
            "total": features.total,
            "products": features.products,
            "kept": np.concatenate(features.kept),
        }
        facts = {"count": features.count, "sums": reference.sums}
        self._write("features", made_of, facts, safetensors.numpy.save(arrays))

    def _read(self, kind: str, made_of: Facts) -> tuple[dict[str, Any], bytes] | None:
        place = self._folder / kind / f"{digest_json(made_of)}.json"
        if not place.exists():
            return None
        try:
            entry = json.loads(place.read_bytes())
            facts, name = dict(entry["facts"]), str(entry["arrays"])
            content = (self._folder / kind / name).read_bytes()
        except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
            raise LbaeError(f"{place}, an entry of the cache, is damaged ({error!r}): delete it") from error
        if name != _file(content):
            raise LbaeError(
                f"{place}, an entry of the cache, is damaged ({name} holds something else): delete both"
            )
        return facts, content

    def _write(self, kind: str, made_of: Facts, facts: Facts, content: bytes) -> None:
        (self._folder / kind / _file(content)).write_bytes(content)
        entry = {"made_of": made_of, "facts": facts, "arrays": _file(content)}
        (self._folder / kind / f"{digest_json(made_of)}.json").write_bytes(
            json.dumps(entry, indent=2).encode()
        )


def _file(content: bytes) -> str:
    return f"{digest(content)}.safetensors"


def fingerprint(shape: Facts, weights: bytes) -> str:
    """Of a classifier, by what :func:`lbae.report.features.classifier.to_weights` gives."""
    return digest(weights, json.dumps(shape).encode())
