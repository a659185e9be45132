"""How a latent table is divided into parts, which of them count as finished, and that none lacks rows."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbae.core.latents.packing import pack
from lbae.errors import LbaeError, OverwriteNeeded, UserError
from lbae.io.artifacts import latent_parts
from lbae.io.artifacts.latent_parts import PART_LIMITS, PartPlan
from lbae.io.artifacts.latent_table import KIND, latent_rows, open_latent_table, part_digest
from lbae.io.artifacts.manifest import Manifest, read_manifest, write_manifest
from lbae.io.artifacts.output import UNFINISHED, Output
from lbae.io.sources.decode import QUARANTINE_SCHEMA
from lbae.io.sources.plan import SHARD_LIMITS, plan
from lbae.io.sources.source import Shard
from tests.conftest import image_table

LATENTS = np.random.default_rng(0).choice(np.array([-1, 1], dtype=np.int8), size=(6, 11))
MADE = ("a device", "bfloat16")
MEGABYTE = 2**20


def shard(rows: int, size: int = 0, column_bytes: int = 0, file: str = "a.parquet") -> Shard:
    return Shard(
        root="/data", rows=rows, size=size, column_bytes=column_bytes, files=(file,), columns=pa.schema([])
    )


def batches(good: int) -> list[pa.Table]:
    """Latents in batches of two rows; one empty batch if there are none."""
    keys, rest = pa.array([f"k{i}" for i in range(good)], pa.string()), pa.table({"label": list(range(good))})
    return [
        latent_rows(
            keys[first : first + 2], pack(LATENTS[:good][first : first + 2]), rest.slice(first, 2), 11, "m"
        )
        for first in range(0, max(1, good), 2)
    ]


def quarantine(bad: int) -> pa.Table:
    rows = {"key": [f"bad{i}" for i in range(bad)], "path": ["p"] * bad, "error": ["e"] * bad}
    return pa.Table.from_pydict(rows, schema=QUARANTINE_SCHEMA)


def part_of(rows: int, index: int = 0) -> PartPlan:
    return PartPlan(name=f"part-001-{index:05d}.parquet", shards=(shard(rows),))


def table(generation: int = 1, files: int = 0) -> Manifest:
    names = tuple(f"data/part-{i}.parquet" for i in range(files))
    return Manifest(
        kind=KIND,
        fingerprint="f",
        parents={},
        config={},
        rows=1,
        files=names,
        result={},
        generation=generation,
    )


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@given(st.lists(st.integers(1, 2048), min_size=1, max_size=60), st.booleans())
def test_parts_are_runs_of_shards_within_the_limits(rows, keep_images):
    shards = [shard(count, 20_000 * count, 1000 * count, f"{i}.parquet") for i, count in enumerate(rows)]
    parts = latent_parts.plan_latent_parts(shards, keep_images, table(generation=6, files=9))
    assert [one for part in parts for one in part.shards] == shards
    assert [part.name for part in parts] == [f"part-007-{i:05d}.parquet" for i in range(len(parts))]
    most = latent_parts.rows_per_part(sum(rows))

    def fits(some: tuple[Shard, ...]) -> bool:
        kept = sum(one.size if keep_images else one.column_bytes for one in some)
        return sum(one.rows for one in some) <= most and kept <= 256 * MEGABYTE

    assert all(fits(part.shards) or len(part.shards) == 1 for part in parts)
    for part, after in itertools.pairwise(parts):
        assert not fits((*part.shards, after.shards[0])), "no part is cut without need"


@pytest.mark.parametrize(
    ("rows", "per_part"),
    [(1, 2048), (10**6, 2048), (2**21, 4096), (10**7, 19_531), (2**25, 65_536), (10**12, 65_536)],
)
def test_the_rows_of_a_part_follow_from_the_corpus(rows, per_part):
    assert latent_parts.rows_per_part(rows) == per_part


def test_files_of_many_parts_sort_in_the_order_of_the_source(monkeypatch):
    monkeypatch.setattr(latent_parts, "_MOST_ROWS", 1)
    names = [part.name for part in latent_parts.plan_latent_parts([shard(1)] * 100_001, False)]
    assert names == sorted(names)
    assert (names[0], names[-1]) == ("part-001-000000.parquet", "part-001-100000.parquet")


def test_a_table_whose_manifest_could_not_be_read_is_not_begun(tmp_path):
    shards = [shard(1, column_bytes=256 * MEGABYTE)] * 200_000
    parts = latent_parts.plan_latent_parts(shards, False)
    files = tuple(name for part in parts for name in (part.data, part.quarantine))
    write_manifest(str(tmp_path), replace(table(), files=files))
    assert len(read_manifest(str(tmp_path)).files) == 400_000
    with pytest.raises(UserError, match="would have 400001 files, two per part; allowed: 400000"):
        latent_parts.plan_latent_parts(shards, False, table(files=1))


def test_columns_count_and_images_only_if_they_are_kept(tmp_path):
    text, image = 3000, 5000
    cells = [bytes([i]) * image for i in range(100)]
    image_table(tmp_path / "a.parquet", cells, text=[chr(97 + i % 26) * text for i in range(100)])
    (found,) = plan(str(tmp_path)).shards
    assert 26 * text < found.column_bytes < 100 * text + 10_000
    assert found.size - found.column_bytes > 100 * image
    large = [replace(found, size=200 * MEGABYTE, column_bytes=100 * MEGABYTE)] * 4
    counts = [len(latent_parts.plan_latent_parts(large, keep)) for keep in (False, True)]
    assert counts == [2, 4]


def test_a_part_is_finished_once_its_whole_file_exists(tmp_path):
    out = str(tmp_path / "latents")
    plans = [part_of(5), part_of(8, 1)]
    assert latent_parts.finished_parts(out, plans) == {}
    assert latent_parts.finished_part(out, plans[1]) is None
    part = latent_parts.write_latent_part(out, plans[1], batches(6), quarantine(2), MADE)
    for name in (f"{plans[0].name}.123.tmp", f".{plans[0].name}.0.tmp", "part-x.parquet"):
        (tmp_path / "latents" / "data" / name).write_bytes(b"half")
    assert latent_parts.finished_parts(out, plans) == {plans[1].name: part}
    assert (part.rows, part.bad, part.encoder) == (6, 2, MADE)
    assert part.files == (plans[1].data, plans[1].quarantine)
    written = pq.ParquetFile(tmp_path / "latents" / plans[1].data)
    assert written.num_row_groups == 1
    assert written.read().equals(pa.concat_tables(batches(6)))
    assert part.digest == part_digest(written.read())


def test_a_part_without_latents_is_finished_and_not_in_the_table(tmp_path):
    out = str(tmp_path / "latents")
    plans = [part_of(3), part_of(6, 1)]
    output = Output(out, KIND, parents={"model": "m"}, config={"latent_dim": 11}, resume_key=PART_LIMITS)
    output.begin()
    parts = [
        latent_parts.write_latent_part(out, plans[0], batches(0), quarantine(3), MADE),
        latent_parts.write_latent_part(out, plans[1], batches(6), quarantine(0), MADE),
    ]
    assert list(latent_parts.finished_parts(out, plans).values()) == parts
    latent_parts.publish_latents(output, parts, None, {})
    wanted = [plans[1].data, plans[0].quarantine]
    assert files_in(tmp_path / "latents") == sorted(["manifest.json", *wanted])
    assert open_latent_table(out).parts == [plans[1].data]


@pytest.mark.parametrize(("good", "bad"), [(5, 0), (6, 2), (0, 0)])
def test_a_part_with_more_or_fewer_rows_than_planned_is_not_written(tmp_path, good, bad):
    out = str(tmp_path / "latents")
    message = rf"part-001-00000.parquet and its quarantine hold {good + bad} rows, but 7 were planned"
    with pytest.raises(LbaeError, match=message):
        latent_parts.write_latent_part(out, part_of(7), batches(good), quarantine(bad), MADE)
    assert not (tmp_path / "latents").exists()


def test_a_finished_part_with_other_rows_than_planned_ends_the_job(tmp_path):
    out = str(tmp_path / "latents")
    latent_parts.write_latent_part(out, part_of(6), batches(5), quarantine(1), MADE)
    with pytest.raises(LbaeError, match=r"hold 6 rows, but 7 were planned from the source; .* --overwrite"):
        latent_parts.finished_parts(out, [part_of(7)])


def test_an_unfinished_table_that_was_cut_otherwise_is_not_resumed(tmp_path):
    """Earlier versions wrote a file per shard under ``_work``, and part files that held other rows."""
    out = tmp_path / "latents"
    older = Output(str(out), KIND, parents={"model": "m"}, config={"latent_dim": 11}, resume_key=SHARD_LIMITS)
    older.begin()
    for name in ("_work/latents-0.parquet", "data/part-001-00000.parquet"):
        (out / name).parent.mkdir()
        (out / name).write_bytes(b"older")
    newer = replace(older, resume_key=PART_LIMITS)
    with pytest.raises(OverwriteNeeded, match="an unfinished run with different inputs or options"):
        newer.begin()
    assert "data/part-001-00000.parquet" in files_in(out)
    replace(newer, overwrite=True).begin()
    assert files_in(out) == [UNFINISHED]
    latent_parts.write_latent_part(str(out), part_of(6), batches(6), quarantine(0), MADE)
    newer.begin()
    assert files_in(out) == [UNFINISHED, part_of(6).data]
