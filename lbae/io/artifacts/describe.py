"""A summary of any artifact, or of several latent tables: the manifest, and statistics of the bits."""

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
from lbae.io.artifacts.latent_tables import LatentTables, open_latent_tables
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
        facts["bits"] = _bits_of_latents(open_latent_tables(uri))
    if reasons := _quarantine(uri, manifest.files):
        facts["quarantine"] = dict(reasons.most_common())
    if manifest.kind == bundle_artifact.KIND:
        facts["leading_bits"] = leading_bits(bundle_artifact.load_statistics(uri), _LEADING_BITS)
    return facts


def describe_tables(table: LatentTables) -> dict[str, Any]:
    """The facts of several latent tables that are read as one, and the rows of each."""
    reasons: Counter[str] = sum(
        (_quarantine(one.uri, one.manifest.files) for one in table.tables), Counter[str]()
    )
    return {
        "kind": latent_table.KIND,
        "fingerprint": table.fingerprint,
        "parents": {"model": table.model_fingerprint},
        "rows": table.rows,
        "files": sum(len(one.manifest.files) for one in table.tables),
        "tables": {one.uri: one.rows for one in table.tables},
        "schema": {field.name: str(field.type) for field in table.columns},
        **({"bits": _bits_of_latents(table)} if table.rows else {}),
        **({"quarantine": dict(reasons.most_common())} if reasons else {}),
    }


def _bits_of_latents(table: LatentTables) -> dict[str, Any]:
    """The health of the bits of some rows, from parts all over the tables."""
    parts = table.parts[:: -(-len(table.parts) // _SAMPLE_PARTS) or 1]
    groups = [group for part in parts for group in table.footer(part, [])[0]]
    sample = itertools.islice(table.batches(groups, ["latent"]), _SAMPLE_BATCHES)
    packed = [latent_table.packed_latents(rows) for rows in sample]
    if not packed:
        raise damaged(
            resolve(table.uris[0]) / MANIFEST, f"it says {table.rows} rows, but the parts hold none"
        )
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
