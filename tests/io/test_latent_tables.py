"""Several latent tables read as one: the rows of a single table, in any order; and refused combinations."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lbae.errors import UserError
from lbae.io.artifacts.latent_table import open_latent_table
from lbae.io.artifacts.latent_tables import open_latent_tables
from lbae.io.artifacts.output import UNFINISHED
from tests.conftest import write_latents

LATENTS = np.random.default_rng(0).choice(np.array([-1, 1], dtype=np.int8), size=(500, 21))
LABELS = [i % 3 for i in range(500)]


def write(folder: Path, rows: slice, **columns: list) -> str:
    return write_latents(folder, LATENTS[rows], columns, numbers=np.arange(500)[rows])


@pytest.fixture
def tables(tmp_path) -> list[str]:
    """Two tables, and one with all their rows."""
    first, rest = slice(0, 180), slice(180, 500)
    return [
        write(tmp_path / "a", first, label=LABELS[first]),
        write(tmp_path / "b", rest, label=LABELS[rest]),
        write(tmp_path / "whole", slice(None), label=LABELS),
    ]


def rows_of(latents: str | list[str], columns: list[str]) -> list[dict]:
    tables = open_latent_tables(latents)
    groups = [group for part in tables.parts for group in tables.footer(part, ["latent"])[0]]
    rows = pa.concat_tables(tables.batches(groups, columns)).to_pylist()
    assert len(rows) == tables.rows == sum(group.rows for group in groups)
    return sorted(rows, key=lambda row: row["key"])


def change(uri: str, **manifest) -> None:
    path = Path(uri) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | manifest))


def test_the_rows_of_several_tables_are_those_of_one_table_with_all_rows(tables):
    columns = ["key", "latent", "label"]
    assert rows_of(tables[:2], columns) == rows_of(tables[2], columns)


def test_a_single_table_is_itself_and_the_order_of_several_does_not_matter(tables):
    a, b, whole = tables
    assert open_latent_tables(whole).fingerprint == open_latent_table(whole).manifest.fingerprint
    both = open_latent_tables([a, b])
    assert open_latent_tables([b, a]) == both
    prints = {open_latent_tables(uri).fingerprint for uri in tables}
    assert len({*prints, both.fingerprint}) == 4
    assert both.rows_of_tables == {open_latent_tables(uri).fingerprint: n for uri, n in ((a, 180), (b, 320))}


def test_a_row_is_found_in_the_table_of_its_part(tables):
    both = open_latent_tables(tables[:2])
    for uri, label in ((tables[0], LABELS[0]), (tables[1], LABELS[180])):
        part = next(part for part in both.parts if part.startswith(f"{uri}/"))
        assert both.holder(part).uri == uri
        assert both.row(part, 0, 0)["label"] == label
        assert both.read(part, ["label"])["label"][0].as_py() == label
        assert {group.part for group in both.footer(part, [])[0]} == {part}


def test_a_column_that_a_table_lacks_is_null_and_types_are_widened(tmp_path):
    a = write(tmp_path / "a", slice(0, 3), label=[1, 2, 3], tag=["x", "y", "z"])
    b = write(tmp_path / "b", slice(3, 5), label=[0.5, None])
    rows = rows_of([a, b], ["key", "latent", "label", "tag"])
    assert [(row["label"], row["tag"]) for row in rows] == [
        (1, "x"),
        (2, "y"),
        (3, "z"),
        (0.5, None),
        (None, None),
    ]


def test_columns_that_do_not_fit_are_refused_by_the_names_of_the_tables(tmp_path):
    a = write(tmp_path / "a", slice(0, 3), label=[1, 2, 3])
    b = write(tmp_path / "b", slice(3, 5), label=["x", "y"])
    with pytest.raises(
        UserError, match=r"'label' is int64 in \S+/a and string in \S+/b|string in \S+/b and int64"
    ):
        open_latent_tables([a, b])


def test_an_empty_table_adds_no_rows(tables, tmp_path):
    empty = write_latents(tmp_path / "empty", LATENTS[:0], parts=0)
    both = open_latent_tables([tables[0], empty])
    assert (both.rows, both.rows_of_tables) == (180, open_latent_tables(tables[0]).rows_of_tables)
    assert both.columns.names == ["key", "latent", "label"]


def test_tables_that_cannot_be_one_are_refused_by_name(tables, tmp_path):
    a, b, _ = tables
    with pytest.raises(UserError, match=r"tables \S+/a and \S+/a hold the same rows .*give each table once"):
        open_latent_tables([a, b, a])
    other = write_latents(tmp_path / "m2", LATENTS[:9], numbers=np.arange(900, 909), model="m2")
    with pytest.raises(UserError, match=r"differ in their model: m[12] and m[12]"):
        open_latent_tables([a, other])
    wide = write_latents(tmp_path / "wide", np.ones((9, 30), dtype=np.int8))
    with pytest.raises(UserError, match=r"differ in their number of bits: (21 and 30|30 and 21)"):
        open_latent_tables([a, wide])
    change(b, result={"precision": "bfloat16"})
    with pytest.raises(UserError, match=r"/[ab] and \S+/[ab] differ in their precision: .*bfloat16"):
        open_latent_tables([a, b])
    with pytest.raises(UserError, match="no latent table was given"):
        open_latent_tables([])
    with pytest.raises(UserError, match=r"there is no artifact at \S+/gone"):
        open_latent_tables([a, str(tmp_path / "gone")])


def test_tables_of_two_grids_are_refused(tables):
    for part in (Path(tables[1]) / "data").iterdir():
        rows = pq.read_table(part)
        pq.write_table(
            rows.replace_schema_metadata({**rows.schema.metadata, b"lbae.latent_grid": b"4"}), part
        )
    with pytest.raises(UserError, match=r"differ in their grid of latents: (1 and 4|4 and 1)"):
        open_latent_tables(tables[:2])


def test_a_part_that_is_gone_is_named(tables):
    both = open_latent_tables(tables[:2])
    part = next(part for part in both.parts if part.startswith(tables[1]))
    Path(part).unlink()
    with pytest.raises(UserError, match=f"{part} cannot be read as Parquet"):
        both.footer(part, [])


def test_images_of_named_sources_are_followed_with_their_names(tables):
    change(tables[0], result={"data": ["a=s3://bucket/x", "b=/y"]})
    assert open_latent_table(tables[0]).images() == ["a=s3://bucket/x", "b=/y"]
    for place in ("a=http://evil/x", "http://evil=x", "file::http://evil/x", "a=simplecache::http://evil/x"):
        change(tables[0], result={"data": ["b=/y", place]})
        with pytest.raises(UserError, match="as its data; followed without being asked"):
            open_latent_table(tables[0]).images()


def test_a_pattern_stands_for_the_latent_tables_that_it_matches(tables, tmp_path, caplog):
    (tmp_path / "notes").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "a.lock").touch()
    assert open_latent_tables(f"{tmp_path}/[ab]") == open_latent_tables(tables[:2])
    found = open_latent_tables([f"{tmp_path}/[bn]*", tables[0]])
    assert found == open_latent_tables(tables[:2])
    assert f"matches folders that are no latent tables: {tmp_path}/notes" in caplog.text
    with pytest.raises(UserError, match=r"no latent table matches \S+/n\*"):
        open_latent_tables(f"{tmp_path}/n*")
    with pytest.raises(UserError, match="hold the same rows"):
        open_latent_tables([f"{tmp_path}/*", tables[0]])
    (tmp_path / "notes" / UNFINISHED).write_text("{}")
    with pytest.raises(UserError, match="notes is not a finished artifact"):
        open_latent_tables(f"{tmp_path}/*")


def test_a_folder_whose_name_looks_like_a_pattern_is_itself(tables, tmp_path):
    odd = write(tmp_path / "x[1]*", slice(0, 5))
    assert open_latent_tables(odd).uris == [odd]


def test_a_pattern_on_an_object_store(s3):
    for name, rows in (("a", slice(0, 180)), ("b", slice(180, 500))):
        write(f"{s3}/tables/{name}", rows)
    assert {*open_latent_tables(f"{s3}/tables/*").uris} == {f"{s3}/tables/a", f"{s3}/tables/b"}
    assert len(rows_of(f"{s3}/tables/*", ["key", "latent"])) == 500
