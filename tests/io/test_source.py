import hashlib
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lbae.config import ModelConfig
from lbae.errors import LbaeError, UserError
from lbae.io.artifacts import image_table as image_table_io
from lbae.io.artifacts.output import Output
from lbae.io.sources.decode import check_bad_share, decode_rows
from lbae.io.sources.hashes import held_out, key_fractions
from lbae.io.sources.plan import plan
from lbae.io.sources.source import only, read_shard, with_table_columns
from tests.conftest import image_table

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
GREY = ModelConfig(image_channels=1, padding=2)


def keys(uri) -> list[str]:
    return [key for shard in plan(str(uri)).shards for key in read_shard(shard)["key"].to_pylist()]


def test_a_table_is_planned_by_row_groups(digits, monkeypatch):
    monkeypatch.setattr("lbae.io.sources.plan.ROWS_PER_SHARD", 250)
    planned = plan(str(digits))
    assert [(s.rows, s.start, s.row_groups) for s in planned.shards] == [
        (200, 0, (0, 1)),
        (150, 200, (2, 3)),
        (250, 350, (0, 1, 2)),
    ]
    assert planned.rows == 600
    assert keys(digits) == [f"a.parquet:{i}" for i in range(350)] + [f"b.parquet:{i}" for i in range(250)]


def test_a_large_row_group_is_divided_into_several_shards(tmp_path, monkeypatch):
    cells = [f"image {row}".encode() for row in range(1000)]
    image_table(tmp_path / "a.parquet", cells, label=list(range(1000)))
    image_table(tmp_path / "b.parquet", cells[:30], row_group_size=10, label=list(range(30)))
    whole = pa.concat_tables(read_shard(shard) for shard in plan(str(tmp_path)).shards)
    assert whole["bytes"].to_pylist() == [*cells, *cells[:30]]
    monkeypatch.setattr("lbae.io.sources.plan.ROWS_PER_SHARD", 300)
    shards = plan(str(tmp_path)).shards
    assert [(s.rows, s.start, s.row_groups, s.skip) for s in shards] == [
        (250, 0, (0,), 0),
        (250, 250, (0,), 250),
        (250, 500, (0,), 500),
        (250, 750, (0,), 750),
        (30, 1000, (0, 1, 2), 0),
    ]
    assert pa.concat_tables(read_shard(shard) for shard in shards).equals(whole)
    known = pa.array([f"a.parquet:{row}" for row in (250, 251, 499, 999)])
    some = pa.concat_tables(read_shard(shard) for shard in only(shards, known))
    assert some["bytes"].to_pylist() == [cells[row] for row in (250, 251, 499, 999)]
    monkeypatch.setattr("lbae.io.sources.plan.ROWS_PER_SHARD", 1)
    assert len(plan(str(tmp_path / "a.parquet")).shards) == 32, (
        "the limit, because each shard reads the row group from its start"
    )


def test_a_table_in_pyarrows_default_layout_gives_many_shards(tmp_path):
    pq.write_table(pa.table({"image": [{"bytes": b"x", "path": None}] * 60_000}), tmp_path / "a.parquet")
    assert pq.ParquetFile(tmp_path / "a.parquet").num_row_groups == 1
    shards = plan(str(tmp_path)).shards
    assert [shard.rows for shard in shards] == [2000] * 30
    assert [len(read_shard(shard)) for shard in shards[:2]] == [2000, 2000]


def test_rows_do_not_depend_on_the_shards(digits, monkeypatch):
    whole = pa.concat_tables(read_shard(shard) for shard in plan(str(digits)).shards)
    monkeypatch.setattr("lbae.io.sources.plan.ROWS_PER_SHARD", 100)
    cut = pa.concat_tables(read_shard(shard) for shard in plan(str(digits)).shards)
    assert cut.equals(whole)
    assert whole.column_names == ["key", "bytes", "path", "label"]


def test_class_folders_become_a_label(folder_of_images):
    table = read_shard(plan(str(folder_of_images)).shards[0])
    assert table["key"].to_pylist()[:2] == ["dark/01.png", "dark/03.png"]
    assert set(table["label"].to_pylist()) == {"dark", "light"}


def test_a_single_file_is_a_source(digits):
    assert plan(str(digits / "b.parquet")).rows == 250


def test_a_flat_folder_has_no_label_and_hidden_files_are_not_read(tmp_path, folder_of_images):
    (tmp_path / "a.png").write_bytes((folder_of_images / "dark" / "01.png").read_bytes())
    (tmp_path / ".DS_Store").write_bytes(b"junk")
    table = read_shard(plan(str(tmp_path)).shards[0])
    assert table.column_names == ["key", "bytes", "path"]
    assert table["key"].to_pylist() == ["a.png"]


def test_images_with_a_leading_underscore_are_read_but_not_the_work_files_of_a_run(
    tmp_path, folder_of_images
):
    for name in ("_DSC0001.png", "_old/a.png", ".cache/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(folder_of_images / "dark" / "01.png", tmp_path / name)
    assert keys(tmp_path) == ["_DSC0001.png", "_old/a.png"]
    out = str(tmp_path / "table")
    part = image_table_io.write_files(out, 0, [("x", b"x")], {})
    image_table_io.publish_images(Output(out, "image table", parents={}, config={}), [part], {})
    image_table(tmp_path / "table" / "_work" / "half.parquet", [b"y"])
    assert keys(out) == ["data/part-00000.parquet:0"]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_a_binary_column_holds_images_without_paths(kind, tmp_path):
    rows = {"image": pa.array([b"one", None, b"three"], kind), "label": [1, 2, 3]}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    found = read_shard(plan(str(tmp_path)).shards[0])
    assert found.select(["bytes", "path", "label"]).to_pylist() == [
        {"bytes": b"one", "path": None, "label": 1},
        {"bytes": None, "path": None, "label": 2},
        {"bytes": b"three", "path": None, "label": 3},
    ]


def test_columns_with_reserved_names_are_renamed_and_kept(tmp_path):
    image = [{"bytes": b"x", "path": "0.png"}]
    rows = {"key": ["k"], "path": ["p"], "bytes": [7], "latent": [b"z"], "label": [3], "image": image}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    table = read_shard(plan(str(tmp_path)).shards[0])
    assert table.drop_columns("bytes").to_pylist() == [
        {
            "key": "a.parquet:0",
            "path": "0.png",
            "source_key": "k",
            "source_path": "p",
            "source_bytes": 7,
            "source_latent": b"z",
            "label": 3,
        }
    ]
    image_table(tmp_path / "a.parquet", [b"x"], key=["k"], source_key=["l"])
    with pytest.raises(UserError, match=r"a.parquet has more than one column for source_key .*rename them"):
        plan(str(tmp_path))


def test_all_rows_of_a_source_have_the_same_columns(tmp_path):
    image_table(tmp_path / "a.parquet", [b"x"], label=pa.array([1], pa.int8()))
    image_table(tmp_path / "b.parquet", [b"y"], label=[None], name=["n"])
    image_table(tmp_path / "c.parquet", [b"z"], label=pa.array([2**40]))
    shards = plan(str(tmp_path)).shards
    every = [read_shard(shard) for shard in shards]
    assert len({table.schema for table in every}) == 1
    whole = pa.concat_tables(every)
    assert whole["label"].to_pylist() == [1, None, 2**40]
    assert whole["name"].to_pylist() == [None, "n", None]
    columns = pa.schema([("label", pa.int64()), ("name", pa.string()), ("more", pa.bool_())])
    (row,) = read_shard(with_table_columns(shards, columns, "out")[0]).to_pylist()
    assert (row["label"], row["name"], row["more"]) == (1, None, None)
    for other in ([("label", pa.int64())], [("label", pa.int32()), ("name", pa.string())]):
        with pytest.raises(
            UserError, match=r"other columns \(label int64, name string\) than out \(label int"
        ):
            with_table_columns(shards, pa.schema(other), "out")
    image_table(tmp_path / "d.parquet", [b"z"], label=["cat"])
    with pytest.raises(UserError, match=r"do not fit together: 'label' is int8 in a.parquet and string in d"):
        plan(str(tmp_path))


def test_a_changed_source_has_another_fingerprint(tmp_path):
    image_table(tmp_path / "a.parquet", [b"one"])
    before = plan(str(tmp_path)).fingerprint
    assert plan(str(tmp_path)).fingerprint == before
    image_table(tmp_path / "a.parquet", [b"one", b"two"])
    assert plan(str(tmp_path)).fingerprint != before


def test_the_kind_of_a_source_comes_from_suffixes_or_from_the_kind_asked_for(
    tmp_path, digits, folder_of_images
):
    for name in ("a.png", "b.png"):
        shutil.copy(folder_of_images / "dark" / "01.png", tmp_path / name)
    shutil.copy(digits / "b.parquet", tmp_path / "facts.parquet")
    with pytest.raises(
        UserError, match=r"1 Parquet file \(facts.parquet\) and 2 image files \(a.png\); only one kind"
    ):
        plan(str(tmp_path))
    assert plan(str(tmp_path), "table").skipped == {".png": 2}
    assert [key for shard in plan(str(tmp_path), "files").shards for key in shard.files] == ["a.png", "b.png"]
    unnamed = shutil.copy(digits / "b.parquet", tmp_path / "table")
    assert plan(str(unnamed), "table").rows == 250
    assert plan(str(unnamed), "table").fingerprint != plan(str(unnamed), "files").fingerprint
    with pytest.raises(UserError, match="holds no images"):
        plan(str(unnamed))
    image = shutil.copy(folder_of_images / "dark" / "01.png", tmp_path / "image")
    assert plan(str(image)).fingerprint == plan(str(image), "files").fingerprint
    with pytest.raises(LbaeError, match="cannot be read as an uncompressed tar"):
        plan(str(unnamed), "tars")


def test_a_file_removed_after_planning_is_a_bad_image(tmp_path, folder_of_images):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes((folder_of_images / "dark" / "01.png").read_bytes())
    shard = plan(str(tmp_path)).shards[0]
    (tmp_path / "b.png").unlink()
    decoded = decode_rows(read_shard(shard), GREY)
    assert len(decoded.images) == 1
    error = "no bytes: the image is missing, or has more than 268435456 bytes"
    assert decoded.quarantine.to_pylist() == [{"key": "b.png", "path": "b.png", "error": error}]


def test_a_file_of_more_bytes_than_allowed_is_not_read(tmp_path, folder_of_images):
    shutil.copy(folder_of_images / "dark" / "01.png", tmp_path / "a.png")
    with (tmp_path / "b.png").open("wb") as file:
        file.truncate(2**28 + 1)  # a sparse file, which takes no disk
    tables = [read_shard(shard) for shard in plan(str(tmp_path)).shards]
    assert [row["bytes"] is None for table in tables for row in table.to_pylist()] == [False, True]


def test_an_image_in_another_format_is_quarantined_with_the_allowed_ones(tmp_path):
    """EPS would start a program, and ICO knows no limit of pixels."""
    for suffix in ("eps", "ico", "jp2", "avif", "png"):
        Image.new("RGB", (32, 32)).save(tmp_path / f"a.{suffix}")
    decoded = decode_rows(read_shard(plan(str(tmp_path)).shards[0]), GREY)
    assert decoded.rows["key"].to_pylist() == ["a.png"]
    assert {row["key"]: row["error"] for row in decoded.quarantine.to_pylist()} == dict.fromkeys(
        ("a.avif", "a.eps", "a.ico", "a.jp2"),
        "not in an allowed format (PNG, JPEG, WEBP, GIF, BMP, TIFF, PPM)",
    )


def test_held_out_rows_have_a_hash_divisible_by_ten():
    names = [f"part-ä:{i}" for i in range(500)]
    digests = [hashlib.sha256(name.encode()).hexdigest() for name in names]
    keys = pa.chunked_array([names[:200], names[200:]])
    assert held_out(keys).tolist() == [int(digest, 16) % 10 == 0 for digest in digests]
    assert key_fractions(keys).tolist() == [int(digest[:16], 16) / 2**64 for digest in digests]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "nothing", "does not exist"),
        (lambda p: p, "holds no images"),
        (
            lambda p: pq.write_table(pa.table({"x": [1]}), p / "a.parquet") or p,
            r"no column 'image' .*\(columns: x int64\)",
        ),
        (
            lambda p: pq.write_table(pa.table({"image": ["a.png"]}), p / "a.parquet") or p,
            r"no column 'image' of type struct\{bytes, path\} or binary \(columns: image string\)",
        ),
        (
            lambda p: (
                pq.write_table(
                    pa.table({"image": pa.array([{"bytes": None, "path": "a.png"}] * 3, IMAGE)}),
                    p / "a.parquet",
                )
                or p
            ),
            "'image' of .*a.parquet holds paths but no bytes; give the folder with the image files",
        ),
        (lambda p: (p / "a.parquet").write_bytes(b"PAR1 no") and p, "cannot be read as Parquet"),
        (lambda p: image_table(p / "a.parquet", []) or p, "holds no images"),
        (lambda p: [(p / name).write_text("words") for name in ("a.txt", "b.csv")] and p, "holds no images"),
    ],
)
def test_errors_of_bad_sources_say_what_is_wrong(tmp_path, make, message):
    with pytest.raises(UserError, match=message):
        plan(str(make(tmp_path)))


def test_an_empty_uri_is_refused():
    with pytest.raises(UserError, match="empty URI"):
        plan("")


def test_too_many_bad_images_raise_an_error():
    check_bad_share("x", 1, 100, 0.01)
    with pytest.raises(
        LbaeError, match=r"2 of 100 images of x could not be decoded, more than the allowed share of 0\.01"
    ):
        check_bad_share("x", 2, 100, 0.01)
    with pytest.raises(LbaeError, match="more than the allowed share of nan"):
        check_bad_share("x", 0, 100, float("nan"))
