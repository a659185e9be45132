"""A summary of any artifact: its manifest, and statistics of its bits."""

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pyarrow.compute as pc

from lbae.core.moments.attribute_statistics import leading_bits
from lbae.core.moments.bit_health import bit_health
from lbae.core.moments.moment_accumulator import sum_packed
from lbae.core.moments.moment_sums import MomentSums
from lbae.io.artifacts import bundle_artifact, latent_table, moments_artifact
from lbae.io.artifacts.manifest import MANIFEST, read_manifest
from lbae.io.storage.hub import fetched, pinned
from lbae.io.storage.location import resolve
from lbae.io.storage.parquet_file import open_parquet, texts
from lbae.io.storage.stored_file import damaged

_SAMPLE_PARTS = 4
_SAMPLE_BATCHES = 16  # of at most 2**15 rows
_REASONS, _REASON_LENGTH = 200, 100
_OTHERS = "other errors"
_LEADING_BITS = 5


def describe(uri: str) -> dict[str, Any]:
    """Kind, lineage, rows and configuration of any artifact.

    Latent tables and moment sums add the health of the bits, tables their columns and the errors in the
    quarantine, and bundles the bits that each attribute lifts most.
    """
    uri = pinned(uri)
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
        "result": {
            k: v for k, v in manifest.result.items() if k not in ("kind", "fingerprint", "rows", "history")
        },
    }
    if parts := [name for name in manifest.files if name.startswith("data/")]:
        with open_parquet(fetched(uri, parts[:1]) / parts[0]) as file:
            facts["schema"] = {field.name: str(field.type) for field in file.schema_arrow}
    if manifest.kind == moments_artifact.KIND:
        facts["bits"] = _bits(moments_artifact.load_moments(uri)[0])
    if manifest.kind == latent_table.KIND and manifest.rows:
        facts["bits"] = _bits_of_latents(uri)
    if reasons := _quarantine(uri, manifest.files):
        facts["quarantine"] = dict(reasons.most_common())
    if manifest.kind == bundle_artifact.KIND:
        facts["leading_bits"] = leading_bits(bundle_artifact.load_statistics(uri), _LEADING_BITS)
    return facts


def _bits_of_latents(uri: str) -> dict[str, Any]:
    table = latent_table.open_latent_table(uri)
    groups = [group for part in table.parts[:_SAMPLE_PARTS] for group in table.footer(part, [])[0]]
    sample = itertools.islice(table.batches(groups, ["latent"]), _SAMPLE_BATCHES)
    packed = [latent_table.packed_latents(rows) for rows in sample]
    if not packed:
        raise damaged(resolve(uri) / MANIFEST, f"it says {table.manifest.rows} rows, but the parts hold none")
    return _bits(sum_packed(np.concatenate(packed), table.latent_dim))


def _quarantine(uri: str, files: tuple[str, ...]) -> Counter[str]:
    """The number of images that could not be decoded, by the start of the error; at most 200 errors."""
    reasons: Counter[str] = Counter()
    for name in files:
        if name.startswith("quarantine/"):
            location = fetched(uri, [name]) / name
            with open_parquet(location) as file:
                for errors in texts(location, file, "error"):
                    starts = pc.utf8_slice_codeunits(errors.dictionary, 0, _REASON_LENGTH).to_pylist()
                    for index in errors.indices.to_pylist():
                        reason = str(None if index is None else starts[index]).partition(":")[0]
                        reasons[reason if reason in reasons or len(reasons) < _REASONS else _OTHERS] += 1
    return reasons


def _bits(sums: MomentSums) -> dict[str, Any]:
    health = {name: round(value, 4) for name, value in bit_health(sums).items()} if sums.count else {}
    return {"latent_dim": sums.latent_dim, "rows_read": sums.count, **health}
