"""The moment-sums artifact: one int64 matrix in ``sums.safetensors``, and its sources in ``lineage.json``.

An update writes the next generation's files beside the current ones; the update after that removes the old
files. A reader that holds the previous manifest therefore still finds its files.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import safetensors.numpy

from lbae.core.moments.moment_sums import MomentSums
from lbae.errors import UserError
from lbae.io.artifacts.attribute_columns import Attribute
from lbae.io.artifacts.manifest import MANIFEST, Manifest, attribute_names, entry, read_manifest
from lbae.io.artifacts.output import Output
from lbae.io.artifacts.tensors import read_tensors
from lbae.io.storage.digests import digest, digest_json
from lbae.io.storage.json_file import read_object
from lbae.io.storage.location import resolve
from lbae.io.storage.stored_file import damaged

KIND = "moment sums"


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """What was summed.

    ``tables``: rows per latent table, negative if subtracted. ``parts``: how many times each part file is
    counted, by the digest of its rows. ``attributes``: the attributes that were summed.
    """

    tables: Mapping[str, int]
    parts: Mapping[str, int]
    attributes: tuple[Attribute, ...] = ()

    def combine(self, other: "Lineage", sign: int) -> "Lineage":
        """The lineage of the sum (``sign`` 1) or of the difference (-1)."""
        return Lineage(
            tables=_combine(self.tables, other.tables, sign),
            parts=_combine(self.parts, other.parts, sign),
            attributes=self.attributes,
        )


def _combine(left: Mapping[str, int], right: Mapping[str, int], sign: int) -> dict[str, int]:
    total = Counter(left)
    total.update({name: sign * count for name, count in right.items()})
    return {name: count for name, count in total.items() if count}


def save_moments(
    output: Output, moments: MomentSums, lineage: Lineage, result: dict[str, Any]
) -> dict[str, Any]:
    """Publish moment sums as the first or a later generation of an artifact."""
    suffix = "" if output.generation == 1 else f"-{output.generation}"
    files = {
        f"sums{suffix}.safetensors": safetensors.numpy.save({"sums": moments.sums}),
        f"lineage{suffix}.json": json.dumps(dataclasses.asdict(lineage)).encode(),
    }
    for name, data in files.items():
        (resolve(output.uri) / name).write_bytes(data)
    return output.publish(
        fingerprint=_fingerprint(moments),
        rows=moments.count,
        files=files,
        result={
            "latent_dim": moments.latent_dim,
            "attributes": list(moments.attributes),
            "tables": dict(lineage.tables),
            **result,
        },
    )


def _fingerprint(moments: MomentSums) -> str:
    described = digest_json([moments.latent_dim, list(moments.attributes)])
    return digest(moments.sums.tobytes(), described.encode())


def load_moments(uri: str) -> tuple[MomentSums, Manifest]:
    """Moment sums and their manifest, which names the model; UserError if no rows can have these sums."""
    manifest = read_manifest(uri, KIND)
    entry(uri, manifest, "parents", "model", str)
    bits, attributes = entry(uri, manifest, "result", "latent_dim", int), attribute_names(uri, manifest)
    place = resolve(uri) / _file(uri, manifest, "sums")
    side = bits + 2 * len(attributes) + 1
    found = read_tensors(place, {"sums": ("int64", (side, side))})
    sums = MomentSums(sums=found["sums"], latent_dim=bits, attributes=attributes)
    if bits < 1 or not sums.is_possible():
        raise damaged(place, "no rows can have these sums")
    return sums, manifest


def load_lineage(uri: str, manifest: Manifest) -> Lineage:
    """The lineage of moment sums; raises UserError if the artifact has no lineage file, or a damaged one."""
    name = next((name for name in manifest.files if name.startswith("lineage")), None)
    if name is None:
        raise UserError(
            f"{uri} does not record which part files it sums (no lineage file); reduce its table again"
        )
    place = resolve(uri) / name
    tree = read_object(place)
    try:
        return Lineage(
            tables=_counts(tree["tables"]),
            parts=_counts(tree["parts"]),
            attributes=tuple(Attribute(**attribute) for attribute in tree["attributes"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(place, f"{error!r:.200}") from error


def _file(uri: str, manifest: Manifest, beginning: str) -> str:
    """The file whose name begins so."""
    for name in manifest.files:
        if name.startswith(beginning):
            return name
    raise damaged(resolve(uri) / MANIFEST, f"it names no file of {beginning}")


def _counts(found: Any) -> dict[str, int]:
    """Counts by name; ValueError if they are none."""
    if not isinstance(found, dict) or not all(type(count) is int for count in found.values()):
        raise ValueError(f"{found!r:.100}; allowed: whole numbers by name")
    return found
