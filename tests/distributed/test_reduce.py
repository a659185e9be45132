"""Moment sums on a real Ray equal those in memory: whole, by group and updated; and refused inputs."""

import json
import re
import resource
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st

from lbae.core.latents.packing import pack
from lbae.core.moments.moment_accumulator import sum_packed
from lbae.distributed.latent_table.grouped_sums import write_grouped
from lbae.distributed.latent_table.row_group_assignment import assign_row_groups
from lbae.distributed.latent_table.sum_tasks import moment_sums_of
from lbae.distributed.latent_table.table_scan import scan
from lbae.errors import UserError
from lbae.io.artifacts.describe import describe
from lbae.io.artifacts.latent_table import (
    RowGroup,
    latent_rows,
    packed_latents,
)
from lbae.io.artifacts.latent_tables import open_latent_tables
from lbae.io.artifacts.manifest import read_manifest
from lbae.io.artifacts.moments_artifact import load_moments
from lbae.io.artifacts.output import Output
from lbae.io.storage.parquet_file import write_parquet
from lbae.jobs.build.reduce import reduce
from tests.conftest import write_latents, write_packed

N = 21
RNG = np.random.default_rng(0)
LATENTS = RNG.choice(np.array([-1, 1], dtype=np.int8), size=(1000, N))
KIND = ["cat", "dog", None, "eel"] * 250
SMILING = [True, None, False, True, False] * 200
COLUMNS = {"kind": KIND, "smiling": SMILING}
NAMES = ("kind=cat", "kind=dog", "kind=eel", "smiling")


def in_memory(rows: slice | np.ndarray = slice(None)):
    kind, smiling = np.array(KIND, dtype=object)[rows, None], np.array(SMILING, dtype=object)[rows, None]
    classes = np.array(["cat", "dog", "eel"], dtype=object)
    present = np.concatenate([kind == classes, smiling == np.array([True])], axis=1)
    absent = np.concatenate([(kind != classes) & (kind != None), smiling == np.array([False])], axis=1)  # noqa: E711
    return sum_packed(pack(LATENTS[rows]), N, NAMES, present, absent)


@pytest.fixture(scope="module", autouse=True)
def connected(ray_session):
    return ray_session


@pytest.fixture
def latents(tmp_path) -> str:
    return write_latents(tmp_path / "latents", LATENTS, COLUMNS)


@pytest.mark.parametrize("tasks", [1, 2, 7, 1000, None])
def test_any_number_of_tasks_gives_the_sums_in_memory(latents, tmp_path, tasks):
    result = reduce(latents=latents, out=str(tmp_path / "m"), tasks=tasks)
    sums, _ = load_moments(str(tmp_path / "m"))
    assert sums.attributes == NAMES
    np.testing.assert_array_equal(sums.sums, in_memory().sums)
    groups = sum(pq.ParquetFile(path).num_row_groups for path in Path(latents).rglob("*.parquet"))
    assert 1 <= result["tasks"] <= min(tasks or 4, groups)
    assert tasks in (1000, None) or result["tasks"] == tasks
    assert result["bytes_read"] > 1000 * 3
    assert {"read", "unpack", "product"} <= set(result["task_seconds"])


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=60), st.integers(1, 80))
def test_row_groups_are_assigned_once_in_order_and_evenly(rows, tasks):
    groups = [RowGroup(part="p", index=i, rows=n, stored_bytes=0) for i, n in enumerate(rows)]
    assigned = assign_row_groups(groups, tasks)
    assert [group for task in assigned for group in task] == groups
    assert len(assigned) <= tasks
    assert all(assigned)
    assert max(sum(group.rows for group in task) for task in assigned) < sum(rows) / tasks + max(rows)


def test_sums_by_group_equal_the_sums_of_the_groups_rows(latents, tmp_path):
    table = open_latent_tables(latents)
    by_first_bits = lambda rows: packed_latents(rows)[:, 0].astype(np.int64) % 8 - 1  # noqa: E731
    grouped = write_grouped(
        table, scan(table, []).row_groups, by_first_bits, 9, ["latent"], str(tmp_path / "scratch")
    )
    found = {index: ray.get(ref) for index, ref in grouped.sums(())}
    bits = pack(LATENTS)[:, 0] % 8
    assert sorted(found) == list(range(9))
    for index, sums in found.items():
        np.testing.assert_array_equal(sums.sums, sum_packed(pack(LATENTS[bits == index + 1]), N).sums)
    grouped.remove()
    assert not (tmp_path / "scratch").exists()


def test_sums_of_an_earlier_version_are_found_finished(latents, tmp_path):
    """Earlier versions could reduce by a column, and wrote its name or None into every manifest."""
    first = reduce(latents=latents, out=str(tmp_path / "m"), attributes=("smiling",))
    assert read_manifest(str(tmp_path / "m")).config == {"attributes": "smiling", "by": None}
    again = {"latents": latents, "out": str(tmp_path / "m"), "attributes": ("smiling",)}
    assert reduce(**again) == reduce(**again, update=True) == {**first, "already": True}


def test_grouped_sums_of_an_earlier_version_are_described_but_not_read_as_sums(tmp_path):
    parents, config = {"latents": "l", "model": "m"}, {"attributes": "all", "by": "kind"}
    (tmp_path / "g" / "groups").mkdir(parents=True)
    (tmp_path / "g" / "groups" / "00000.safetensors").touch()
    Output(str(tmp_path / "g"), "grouped moment sums", parents=parents, config=config).publish(
        fingerprint="f",
        rows=750,
        files=["groups/00000.safetensors"],
        result={"groups": {"kind=cat": 250, "kind=dog": 500}},
    )
    facts = describe(str(tmp_path / "g"))
    assert (facts["kind"], facts["rows"]) == ("grouped moment sums", 750)
    assert facts["result"]["groups"] == {"kind=cat": 250, "kind=dog": 500}
    with pytest.raises(UserError, match=r"g is of kind grouped moment sums; allowed here: moment sums"):
        load_moments(str(tmp_path / "g"))


@pytest.mark.slow
def test_fifty_groups_of_1500_bits_take_less_than_1_5_gib_per_process(tmp_path):
    packed = np.random.default_rng(0).integers(0, 256, (50_000, 188), dtype=np.uint8)
    packed[:, -1] &= 15
    table = open_latent_tables(write_packed(tmp_path / "wide", packed, 1500, parts=4, row_group=5000))
    by_byte = lambda rows: packed_latents(rows)[:, 3].astype(np.int64) % 50  # noqa: E731
    groups = scan(table, []).row_groups
    grouped = write_grouped(table, groups, by_byte, 50, ["latent"], str(tmp_path / "scratch"))
    assert sum(ray.get(ref).count for _, ref in grouped.sums(())) == 50_000
    peak = ray.remote(lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    assert max(ray.get([peak.remote() for _ in range(8)])) < 1.5 * 2**30


def grow(latents: str, count: int, columns: dict) -> None:
    """Append a part file of the first ``count`` latents, negated, and publish the table anew."""
    manifest = read_manifest(latents)
    keys = pa.array([f"new{i}" for i in range(count)])
    part = latent_rows(keys, pack(-LATENTS[:count]), pa.table(columns), N, "m1")
    write_parquet(latents, "data/part-00009.parquet", part)
    tree = json.loads((Path(latents) / "manifest.json").read_text())
    tree |= {
        "rows": manifest.rows + count,
        "files": [*manifest.files, "data/part-00009.parquet"],
        "fingerprint": "grown",
    }
    (Path(latents) / "manifest.json").write_text(json.dumps(tree))


def test_an_update_reads_only_new_part_files(latents, tmp_path):
    out = str(tmp_path / "m")
    first = reduce(latents=latents, out=out, update=True)
    assert reduce(latents=latents, out=out, update=True) == {**first, "already": True}
    old = load_moments(out)[1]
    for path in (Path(latents) / "data").glob(
        "part-0000[0-2]*"
    ):  # overwritten, because an update must not read known parts
        table = pq.read_table(path)
        pq.write_table(
            table.set_column(1, "latent", pa.array([b"\xff" * 3] * len(table), pa.binary(3))), path
        )
    grow(latents, 40, {"kind": ["dog"] * 40, "smiling": [True] * 40})
    result = reduce(latents=latents, out=out, update=True)
    assert (result["rows"], result["added_rows"], result["tables"]) == (1040, 40, {"grown": 1040})
    present = np.tile([False, True, False, True], (40, 1))
    absent = np.tile([True, False, True, False], (40, 1))
    added = sum_packed(pack(-LATENTS[:40]), N, NAMES, present, absent)
    sums, manifest = load_moments(out)
    np.testing.assert_array_equal(sums.sums, (in_memory() + added).sums)
    assert manifest.generation == 2
    assert all((tmp_path / "m" / name).exists() for name in old.files), (
        "a reader of the old manifest still finds its files"
    )


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (
            {"kind": ["fox"] * 9, "smiling": [True] * 9},
            {},
            "the table now gives kind=cat, kind=dog, kind=eel, kind=fox",
        ),
        (
            {"kind": ["dog"] * 9, "smiling": [True] * 9},
            {"attributes": ("none",)},
            "now gives none: give the same --attributes",
        ),
    ],
)
def test_an_update_with_other_attributes_is_refused(latents, tmp_path, change, options, message):
    before = reduce(latents=latents, out=str(tmp_path / "m"))
    grow(latents, 9, change)
    with pytest.raises(UserError, match=message):
        reduce(latents=latents, out=str(tmp_path / "m"), update=True, **options)
    assert load_moments(str(tmp_path / "m"))[1].fingerprint == before["fingerprint"]


def test_an_update_refuses_changed_parts(latents, tmp_path):
    reduce(latents=latents, out=str(tmp_path / "m"))
    shutil.rmtree(latents)
    write_latents(latents, np.concatenate([LATENTS[:500], -LATENTS[500:]]), COLUMNS)
    with pytest.raises(UserError, match=r"contains 2 part files that .* does not have"):
        reduce(latents=latents, out=str(tmp_path / "m"), update=True)


def damage(latents: str, how: str) -> None:
    path = Path(latents) / "data" / "part-00001.parquet"
    table, data = pq.read_table(path), path.read_bytes()
    keys, count = table["key"].combine_chunks(), len(table)
    rest = table.select(["kind", "smiling"])
    bits = packed_latents(table).copy()
    if how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif how == "a flipped bit":
        place = data.index(bits[0].tobytes()) if bits[0].tobytes() in data else len(data) // 4
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    elif how == "gone":
        path.unlink()
    elif how == "fewer rows":
        write_parquet(latents, "data/part-00001.parquet", table.slice(1))
    elif how == "another width":
        wide = latent_rows(keys, np.zeros((count, 9), dtype=np.uint8), rest, 72, "m1")
        write_parquet(latents, "data/part-00001.parquet", wide)
    elif how == "another model":
        write_parquet(latents, "data/part-00001.parquet", latent_rows(keys, bits, rest, N, "m2"))
    elif how == "padding bits":
        bits[7, 2] |= 128
        write_parquet(latents, "data/part-00001.parquet", latent_rows(keys, bits, rest, N, "m1"))
    elif how == "a key twice":
        again = pa.concat_arrays([keys.slice(0, count - 1), pa.array(["k3"])])
        write_parquet(latents, "data/part-00001.parquet", latent_rows(again, bits, rest, N, "m1"))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("truncated", "part-00001.parquet cannot be read as Parquet"),
        ("a flipped bit", "part-00001.parquet cannot be read as Parquet"),
        ("gone", "part-00001.parquet cannot be read as Parquet"),
        ("fewer rows", "hold 999 rows, its manifest says 1000: a file was replaced"),
        ("another width", r"part-00001.parquet has latents of type .*\[9\]; the table's have 21 bits"),
        ("another model", "part-00001.parquet holds latents of model m2; the table's model is m1"),
        (
            "padding bits",
            "part-00001.parquet cannot be used: padding bits are set in packed latents of N = 21",
        ),
        ("a key twice", "keys of .* occur more than once: k3;"),
    ],
)
def test_damage_is_named_and_nothing_is_published(latents, tmp_path, how, message):
    damage(latents, how)
    with pytest.raises(UserError, match=message):
        reduce(latents=latents, out=str(tmp_path / "m"), unique=how == "a key twice")
    assert not (tmp_path / "m" / "manifest.json").exists()
    if how == "padding bits":
        with pytest.raises(UserError, match=message):
            describe(latents)


def test_unique_keys_pass(latents, tmp_path):
    assert reduce(latents=latents, out=str(tmp_path / "m"), unique=True)["rows"] == 1000


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (
            {"age": [-1, 0, 1, 2]},
            {},
            "column 'age' holds -1 and 2: beside -1 .unset. only 0 .unknown. and 1 .set. are allowed",
        ),
        ({"age": [1, 2, 3, 4]}, {"attributes": ("aeg",)}, "unknown attribute 'aeg'; did you mean 'age'"),
        ({"age": [1, 2, 3, 4]}, {"attributes": ("age=5",)}, "unknown attribute 'age=5'"),
        ({"age": [1, 2, 3, 4]}, {"tasks": 0}, "tasks is 0; allowed: 1 or more"),
    ],
)
def test_invalid_requests_are_named(tmp_path, columns, options, message):
    latents = write_latents(tmp_path / "latents", LATENTS[:4], columns)
    with pytest.raises(UserError, match=message):
        reduce(latents=latents, out=str(tmp_path / "m"), **options)
    assert not (tmp_path / "m").exists()


def test_an_empty_table_is_refused(tmp_path):
    empty = write_latents(tmp_path / "empty", LATENTS[:0], parts=0)
    with pytest.raises(UserError, match="holds no rows; there is nothing to reduce"):
        reduce(latents=empty, out=str(tmp_path / "m"))
    assert not (tmp_path / "m").exists()


def test_partials_of_one_node_are_added_there(latents):
    table = open_latent_tables(latents)
    seen: list[int] = []
    sums, statistics = moment_sums_of(table, scan(table, []).row_groups, (), 12, seen.append)
    np.testing.assert_array_equal(sums.sums, sum_packed(pack(LATENTS), N).sums)
    assert statistics.tasks > 8, "enough partials for more than one merge"
    assert (statistics.rows, statistics.moved_bytes) == (1000, 0)
    assert seen == sorted(seen)
    assert seen[-1] == 1000


def test_attributes_can_be_chosen_by_name(latents, tmp_path):
    reduce(latents=latents, out=str(tmp_path / "m"), attributes=("smiling", "kind=dog"))
    sums, _ = load_moments(str(tmp_path / "m"))
    assert sums.attributes == ("smiling", "kind=dog")
    assert sums.sums[N, -1] == pc.sum(pa.array(SMILING)).as_py()


def test_left_out_columns_are_named_with_the_reason(tmp_path):
    columns = {
        "kind": pa.array(KIND).dictionary_encode(),
        "smiling": pa.array([None if flag is None else float(flag) for flag in SMILING]),
        "many": [f"id{row}" for row in range(1000)],
        "score": [0.5, 1.0] * 500,
        "day": pa.array([0] * 1000, pa.date32()),
        "imagenet": ["tench, Tinca tinca", "goldfish, Carassius auratus"] * 500,
    }
    latents, out = write_latents(tmp_path / "latents", LATENTS, columns), str(tmp_path / "m")
    result = reduce(latents=latents, out=out)
    expected = {"many": "more than 200 values", "score": "fractions", "day": "type date32[day]"}
    assert result["left_out"] == read_manifest(out).result["left_out"] == expected
    sums, _ = load_moments(out)
    fish = "imagenet=goldfish, Carassius auratus", "imagenet=tench, Tinca tinca"
    assert sums.attributes == (*NAMES, *fish)
    wanted = (fish[1], "smiling", "kind=cat")
    chosen = reduce(latents=latents, out=str(tmp_path / "n"), attributes=wanted)
    assert load_moments(str(tmp_path / "n"))[0].attributes == wanted
    assert "left_out" not in chosen
    for name, reason in expected.items():
        with pytest.raises(
            UserError, match=re.escape(f"column {name!r} cannot be used as attributes ({reason})")
        ):
            reduce(latents=latents, out=str(tmp_path / "o"), attributes=[name])
