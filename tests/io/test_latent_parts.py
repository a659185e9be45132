"""Which shards count as finished, and the precision at which they were encoded."""

import numpy as np
import pyarrow as pa

from lbae.core.latents.packing import pack
from lbae.io.artifacts import latent_parts
from lbae.io.artifacts.latent_table import latent_rows, part_digest
from lbae.io.sources.decode import QUARANTINE_SCHEMA

LATENTS = np.random.default_rng(0).choice(np.array([-1, 1], dtype=np.int8), size=(6, 11))


def test_a_shard_is_finished_once_its_whole_file_exists(tmp_path):
    out = str(tmp_path / "latents")
    assert latent_parts.finished_shards(out) == set()
    assert latent_parts.precision(out) is None
    rows = pa.table({"label": list(range(6))})
    keys = pa.array([f"k{i}" for i in range(6)])
    batches = [
        latent_rows(keys[first : first + 2], pack(LATENTS[first : first + 2]), rows.slice(first, 2), 11, "m")
        for first in (0, 2, 4)
    ]
    made = {"device": "cpu", "precision": "bfloat16"}
    latent_parts.write_shard(out, 7, batches, QUARANTINE_SCHEMA.empty_table(), made)
    for name in ("latents-8.parquet.123.tmp", ".latents-9.parquet.0.tmp", "latents-x.parquet"):
        (tmp_path / "latents" / "_work" / name).write_bytes(b"half")
    assert latent_parts.finished_shards(out) == {7}
    assert latent_parts.precision(out) == "bfloat16"
    (plan,) = latent_parts.plan_latent_parts(out, {7: 6}, generation=1, at_least=1)
    part = latent_parts.assemble(out, plan)
    assert (part.rows, part.bad, part.encoders) == (6, 0, {("cpu", "bfloat16")})
    assert part.digest == part_digest(latent_rows(keys, pack(LATENTS), rows, 11, "m"))
