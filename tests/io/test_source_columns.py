"""Columns of sources with several tables: no value is lost or rounded, or the files are refused."""

import decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lbae.errors import LbaeError, UserError
from lbae.io.sources.plan import plan
from lbae.io.sources.source import leaving_out, read_batches, read_shard
from tests.conftest import image_table


def read(uri) -> list[dict]:
    return [row for shard in plan(str(uri)).shards for row in read_shard(shard).to_pylist()]


def values(uri, name: str) -> list:
    return [row[name] for row in read(uri)]


def two_files(root, first: pa.Array, second: pa.Array) -> None:
    image_table(root / "0.parquet", [b"x"] * len(first), v=first)
    image_table(root / "1.parquet", [b"x"] * len(second), v=second)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (("cat", "dog"), ["cat", "dog"]),
        (("3", "10"), [3, 10]),
        (("03", "10"), ["03", "10"]),
        (("1", "__HIVE_DEFAULT_PARTITION__"), [1, None]),
        (("a%20b%2Fc", "d=e"), ["a b/c", "d=e"]),
        (("99999999999999999999", "1"), ["99999999999999999999", "1"]),
    ],
)
def test_partition_folders_are_columns(texts, expected, tmp_path):
    for text in texts:
        image_table(tmp_path / f"label={text}" / "a.parquet", [b"x", b"y"])
    found = {row["key"]: row["label"] for row in read(tmp_path)}
    for text, value in zip(texts, expected, strict=True):
        assert found[f"label={text}/a.parquet:1"] == value


def test_partitions_written_by_pyarrow_are_read_back(tmp_path):
    images = pa.array([{"bytes": b"x", "path": None}] * 4)
    facts = {"image": images, "label": ["cat", "dog", "cat", None], "year": [1, 2, 1, 2]}
    pq.write_to_dataset(pa.table(facts), tmp_path, partition_cols=["label", "year"])
    found = [(row["label"], row["year"]) for row in read(tmp_path)]
    assert sorted(found, key=str) == sorted([("cat", 1), ("dog", 2), ("cat", 1), (None, 2)], key=str)


def test_a_files_own_column_wins_over_its_folders_and_reserved_names_are_renamed(tmp_path):
    image_table(tmp_path / "label=cat" / "a.parquet", [b"x"], label=["own"])
    image_table(tmp_path / "label=dog" / "key=5" / "b.parquet", [b"x"])
    assert [(row["label"], row["source_key"]) for row in read(tmp_path)] == [("own", None), ("dog", 5)]


@pytest.mark.parametrize(
    "names", [["image", "image"], ["image", "label", "label"], ["image", "key", "source_key"]]
)
def test_two_columns_with_one_name_are_refused(names, tmp_path):
    image = pa.array([{"bytes": b"x", "path": None}])
    columns = [image if name == "image" else pa.array([1]) for name in names]
    pq.write_table(pa.table(columns, names=names), tmp_path / "a.parquet")
    with pytest.raises(
        UserError, match=r"a.parquet has more than one column for (image|label|source_key) .*rename"
    ):
        plan(str(tmp_path))


def test_integers_that_floats_cannot_hold_are_refused_with_their_column_and_files(tmp_path):
    two_files(tmp_path, pa.array([2**60 + 1, 5]), pa.array([None, 1.0]))
    with pytest.raises(
        UserError, match=r"'v' holds integers beyond 2\*\*53 in 0.parquet and .*floats in 1.parquet"
    ):
        plan(str(tmp_path))
    two_files(tmp_path, pa.array([2**53, -(2**53), 5]), pa.array([None, 0.5]))
    assert values(tmp_path, "v") == [2.0**53, -(2.0**53), 5.0, None, 0.5]


def test_without_statistics_such_integers_are_refused_on_reading(tmp_path):
    two_files(tmp_path, pa.array([2**60 + 1]), pa.array([0.5]))
    table = pq.read_table(tmp_path / "0.parquet")
    pq.write_table(table, tmp_path / "0.parquet", write_statistics=False)
    with pytest.raises(
        LbaeError, match=r"column 'v' of 0.parquet cannot be read as double.*1152921504606846977"
    ):
        read(tmp_path)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (pa.array([1]), pa.array(["a"]), "int64 in 0.parquet and string in 1.parquet"),
        (pa.array([True]), pa.array([1]), "bool in 0.parquet and int64 in 1.parquet"),
        (pa.array([decimal.Decimal("0.1")]), pa.array([0.1]), r"decimal128\(1, 1\) in 0.* and double in 1"),
        (pa.array(["a"]).dictionary_encode(), pa.array([1]), r"dictionary<.*> in 0.parquet and int64 in 1"),
    ],
)
def test_types_without_a_lossless_common_type_are_refused(first, second, message, tmp_path):
    two_files(tmp_path, first, second)
    with pytest.raises(UserError, match=f"do not fit together: 'v' is {message}"):
        plan(str(tmp_path))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (pa.array(["a", None]), pa.array(["b"]).dictionary_encode()),
        (pa.array(["a", None]), pa.array(["b"], pa.large_string())),
        (pa.array(["a", None]), pa.array(["b"], pa.string_view())),
        (pa.array(["a", "b"]).dictionary_encode(), pa.array(["c"]).dictionary_encode()),
        (pa.array([1, None], pa.int8()), pa.array([2**40])),
        (pa.array([1.5], pa.float32()), pa.array([2.25])),
        (pa.array([decimal.Decimal("1.5")]), pa.array([decimal.Decimal("20.25")])),
        (pa.array([None, None]), pa.array([["a"]])),
        (pa.array([1], pa.uint8()), pa.array([-1], pa.int8())),
    ],
)
def test_types_are_widened_without_loss(first, second, tmp_path):
    two_files(tmp_path, first, second)
    assert values(tmp_path, "v") == [*first.to_pylist(), *second.to_pylist()]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["a", "b", "c"], pa.string_view()),
        pa.array([b"a", b"b", b"c"], pa.binary_view()),
        pa.array([["a"], [], None], pa.list_(pa.string_view())),
        pa.array([{"a": "x"}] * 3, pa.struct([("a", pa.string_view())])),
        pa.array([["a"], ["b"], ["c"]], pa.list_view(pa.string())),
        pa.array(["a", "b", "c"]).dictionary_encode(),
        pa.array([1.0, 2.0, None], pa.float16()),
        pa.array([decimal.Decimal(1)] * 3, pa.decimal256(50, 3)),
    ],
)
def test_columns_of_any_type_can_be_read_filtered_and_sliced(column, tmp_path):
    image_table(tmp_path / "a.parquet", [b"x"] * 3, v=column)
    assert values(tmp_path, "v") == column.to_pylist()
    shards = leaving_out(plan(str(tmp_path)).shards, np.array([0b010], dtype=np.uint8))
    rest = pa.concat_tables(read_batches(shards[0]))
    assert rest["v"].to_pylist() == [column[0].as_py(), column[2].as_py()]
