"""A cache of what evaluations of one data set share: its classifier, and the features of real images.

An entry is ``KIND/NAME.json``, named by the digest of everything that the entry depends on. It names a file
of arrays, which is named by the digest of its content. Both are written whole and array files never change,
so evaluations share a cache without locks.
"""

import contextlib
import importlib.metadata
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from lbae.config import ModelConfig
from lbae.errors import LbaeError, UserError
from lbae.io.artifacts.tensors import MOST_BYTES, parse_tensors
from lbae.io.sources.source import Source
from lbae.io.storage.digests import digest, digest_json
from lbae.io.storage.json_file import read_object
from lbae.io.storage.location import Location
from lbae.report.evaluation.streams import PROTOCOL_VERSION
from lbae.report.features.classifier import Classifier, from_weights, to_weights
from lbae.report.features.feature_sums import FeatureSums

Facts = Mapping[str, Any]
_ARRAYS = re.compile(r"[0-9a-f]{32}\.safetensors")
_REFERENCE = {
    "total": ("float64", ("D",)),
    "products": ("float64", ("D", "D")),
    "kept": ("float32", ("K", "D")),
}
# What reading a damaged entry raises, here and in the code that interprets it.
_DAMAGE = (
    *(UserError, FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, RuntimeError),
    SafetensorError,
)


def decoding(source: Source, config: ModelConfig) -> dict[str, Any]:
    """Everything that the decoded images of a source depend on, and the version of the protocols."""
    versions = {name: importlib.metadata.version(name) for name in ("pillow", "torch")}
    shape = list(config.image_shape)
    return {"version": PROTOCOL_VERSION, "data": source.fingerprint, "shape": shape, **versions}


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Features of real images, and sums over them."""

    features: FeatureSums
    sums: dict[str, float]


class Cache:
    """A folder of classifiers and references, keyed by what they depend on (any JSON object).

    Reading raises LbaeError for a damaged entry.
    """

    def __init__(self, folder: Location) -> None:
        self._folder = folder

    def classifier(self, made_of: Facts) -> tuple[Classifier, str] | None:
        """The classifier and its fingerprint; None when the cache has none."""
        with self._entry("classifiers", made_of) as found:
            return (from_weights(*found), fingerprint(*found)) if found else None

    def keep_classifier(self, made_of: Facts, network: Classifier) -> str:
        """Store a classifier and return its fingerprint."""
        shape, weights = to_weights(network)
        self._write("classifiers", made_of, shape, weights)
        return fingerprint(shape, weights)

    def reference(self, made_of: Facts) -> Reference | None:
        """The features and sums of the images; None when the cache has none."""
        with self._entry("features", made_of) as found:
            if found is None:
                return None
            facts, content = found
            arrays = parse_tensors(content, self._folder, _REFERENCE)
            count, sums = int(facts["count"]), {name: float(value) for name, value in facts["sums"].items()}
            features = FeatureSums(
                count=count, total=arrays["total"], products=arrays["products"], kept=[arrays["kept"]]
            )
            return Reference(features=features, sums=sums)

    def keep_reference(self, made_of: Facts, reference: Reference) -> None:
        """Store the features and sums of the images."""
        features = reference.features
        arrays = {
            "total": features.total,
            "products": features.products,
            "kept": np.concatenate(features.kept),
        }
        facts = {"count": features.count, "sums": reference.sums}
        self._write("features", made_of, facts, safetensors.numpy.save(arrays))

    @contextlib.contextmanager
    def _entry(self, kind: str, made_of: Facts) -> Iterator[tuple[dict[str, Any], bytes] | None]:
        """The facts and the arrays of an entry, None when the cache has none; errors of the body name it."""
        place = self._folder / kind / f"{digest_json(made_of)}.json"
        if not place.exists():
            yield None
            return
        try:
            entry = read_object(place)
            facts, name = dict(entry["facts"]), str(entry["arrays"])
            if not _ARRAYS.fullmatch(name):
                raise ValueError(f"its arrays are named {name:.100}")
            content = (self._folder / kind / name).read_bytes(most=MOST_BYTES)
            if name != _file(content):
                raise LbaeError(
                    f"cache entry {place} is damaged (the content of {name} does not match its name): delete"
                    f" both"
                )
            yield facts, content
        except _DAMAGE as error:
            raise LbaeError(f"cache entry {place} is damaged ({error!r:.300}): delete it") from error

    def _write(self, kind: str, made_of: Facts, facts: Facts, content: bytes) -> None:
        (self._folder / kind / _file(content)).write_bytes(content)
        entry = {"made_of": made_of, "facts": facts, "arrays": _file(content)}
        (self._folder / kind / f"{digest_json(made_of)}.json").write_bytes(
            json.dumps(entry, indent=2).encode()
        )


def _file(content: bytes) -> str:
    return f"{digest(content)}.safetensors"


def fingerprint(shape: Facts, weights: bytes) -> str:
    """The fingerprint of a classifier from :func:`lbae.report.features.classifier.to_weights`."""
    return digest(weights, json.dumps(shape).encode())
