"""The moment-sums artifact: one int64 matrix in ``sums.safetensors``; names and counts in the manifest."""

from collections.abc import Sequence
from typing import Any

import safetensors.numpy

from lbae.core.moments import MomentSums
from lbae.io.artifact import Manifest, digest_json, publish, read_manifest
from lbae.io.artifact import digest as digest_bytes
from lbae.io.storage import resolve

KIND = "moment sums"
_SUMS = "sums.safetensors"


def save_moments(
    out: str, moments: MomentSums, *, parents: dict[str, str], config: dict[str, Any], result: dict[str, Any]
) -> dict[str, Any]:
    """Publish moment sums."""
    (resolve(out) / _SUMS).write_bytes(safetensors.numpy.save({"sums": moments.sums}))
    described = digest_json([moments.latent_dim, list(moments.attributes)])
    return publish(
        out,
        KIND,
        fingerprint=digest_bytes(moments.sums.tobytes(), described.encode()),
        parents=parents,
        config=config,
        rows=moments.count,
        files=(_SUMS,),
        result={"latent_dim": moments.latent_dim, "attributes": list(moments.attributes), **result},
    )


def load_moments(uri: str) -> tuple[MomentSums, Manifest]:
    """Moment sums and their manifest."""
    manifest = read_manifest(uri, KIND)
    sums = safetensors.numpy.load((resolve(uri) / _SUMS).read_bytes())["sums"]
    names: Sequence[str] = manifest.result["attributes"]
    return MomentSums(sums=sums, latent_dim=int(manifest.result["latent_dim"]), attributes=tuple(names)), manifest
