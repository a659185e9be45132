"""What an artifact is, in words and numbers: its manifest, and statistics of its bits."""

from typing import Any

import numpy as np

from lbae.core.attributes import leading_bits
from lbae.core.packing import unpack
from lbae.io import bundle, latent_table, moments
from lbae.io.artifact import read_manifest

_SAMPLE_PARTS = 4
_LEADING_BITS = 5


def describe(uri: str) -> dict[str, Any]:
    """Kind, lineage, rows and configuration of any artifact; for latent tables and moment sums also the bits' health.

    For bundles also the bits that every attribute lifts most.
    """
    manifest = read_manifest(uri)
    facts: dict[str, Any] = {
        "kind": manifest.kind,
        "fingerprint": manifest.fingerprint,
        "parents": manifest.parents,
        "created": manifest.created,
        "rows": manifest.rows,
        "files": len(manifest.files),
        "config": manifest.config,
        "packages": manifest.packages,
        "result": {k: v for k, v in manifest.result.items() if k not in ("kind", "fingerprint", "rows", "history")},
    }
    if manifest.kind == moments.KIND:
        facts["bits"] = bit_statistics(moments.load_moments(uri)[0].mean)
    if manifest.kind == latent_table.KIND and manifest.rows:
        facts |= _latents(uri)
    if manifest.kind == bundle.KIND:
        facts["leading_bits"] = leading_bits(bundle.load_statistics(uri), _LEADING_BITS)
    return facts


def _latents(uri: str) -> dict[str, Any]:
    table = latent_table.open_latent_table(uri)
    parts = [table.read(part, ["latent"]) for part in table.parts[:_SAMPLE_PARTS]]
    mean = np.concatenate([unpack(latent_table.packed_latents(part), table.latent_dim) for part in parts]).mean(axis=0)
    schema = {field.name: str(field.type) for field in table.schema()}
    return {"schema": schema, "bits": {"rows_read": sum(map(len, parts)), **bit_statistics(mean)}}


def bit_statistics(mean: np.ndarray) -> dict[str, Any]:
    """Health of the bits from E[y]: dead bits never vary, a balanced bit has entropy 1."""
    share = (mean + 1) / 2
    inner = np.clip(share, 1e-12, 1 - 1e-12)
    entropy = -(inner * np.log2(inner) + (1 - inner) * np.log2(1 - inner))
    return {
        "latent_dim": len(mean),
        "dead": int((np.abs(mean) == 1).sum()),
        "mean_abs": round(float(np.abs(mean).mean()), 4),
        "mean_entropy": round(float(entropy.mean()), 4),
    }
