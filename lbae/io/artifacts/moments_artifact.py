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
from lbae.io.artifacts.manifest import Manifest, read_manifest
from lbae.io.artifacts.output import Output
from lbae.io.storage.digests import digest, digest_json
from lbae.io.storage.location import resolve

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
    """Moment sums and their manifest."""
    manifest = read_manifest(uri, KIND)
    name = next(name for name in manifest.files if name.startswith("sums"))
    sums = safetensors.numpy.load((resolve(uri) / name).read_bytes())["sums"]
    attributes = tuple(manifest.result["attributes"])
    return MomentSums(
        sums=sums, latent_dim=int(manifest.result["latent_dim"]), attributes=attributes
    ), manifest


def load_lineage(uri: str, manifest: Manifest) -> Lineage:
    """The lineage of moment sums; raises UserError if the artifact has no lineage file."""
    name = next((name for name in manifest.files if name.startswith("lineage")), None)
    if name is None:
        raise UserError(
            f"{uri} does not record which part files it sums (no lineage file); reduce its table again"
        )
    tree = json.loads((resolve(uri) / name).read_bytes())
    return Lineage(
        tables=tree["tables"],
        parts=tree["parts"],
        attributes=tuple(Attribute(**attribute) for attribute in tree["attributes"]),
    )
