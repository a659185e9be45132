"""Latent tables and their attribute columns."""

import json
import unicodedata
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lbae.core.latents.packing import pack
from lbae.errors import UserError
from lbae.io.artifacts.attribute_columns import (
    Attribute,
    can_hold,
    column_values,
    columns_to_scan,
    indicators,
    other_columns,
    select_attributes,
    unusable_columns,
)
from lbae.io.artifacts.latent_table import (
    KIND,
    latent_rows,
    open_latent_table,
    packed_latents,
    part_digest,
)
from lbae.io.artifacts.output import Output
from lbae.io.storage.parquet_file import write_parquet

LATENTS = np.random.default_rng(0).choice(np.array([-1, 1], dtype=np.int8), size=(6, 11))
ROWS = pa.table({"label": [3, 1, None, 3, 1, 0], "smiling": [True, None, False, True, True, False]})


def part(first: int = 0, model: str = "m1") -> pa.Table:
    keys = pa.array([f"k{i}" for i in range(first, 6)])
    return latent_rows(keys, pack(LATENTS[first:]), ROWS.slice(first), 11, model)


def published(tmp_path, table: pa.Table) -> str:
    uri = str(tmp_path / "latents")
    parents, config = {"model": "m1", "data": "d"}, {"latent_dim": 11}
    output = Output(uri, KIND, parents=parents, config=config)
    output.begin()
    write_parquet(uri, "data/part-00000.parquet", table)
    files = ["data/part-00000.parquet"]
    output.publish(fingerprint="f", rows=6, files=files, result={})
    return uri


def test_any_parquet_reader_reads_the_table(tmp_path):
    uri = published(tmp_path, part())
    table = pq.read_table(f"{uri}/data")
    assert table.schema.field("latent").type == pa.binary(2)
    assert table.schema.metadata[b"lbae.bit_order"] == b"lsb"
    assert table.schema.metadata[b"lbae.latent_dim"] == b"11"
    bits = [[(row[i // 8] >> (i % 8)) & 1 for i in range(11)] for row in table["latent"].to_pylist()]
    np.testing.assert_array_equal(np.array(bits) * 2 - 1, LATENTS)
    assert table["label"].to_pylist() == [3, 1, None, 3, 1, 0]


def test_packed_latents_reads_slices_and_chunks():
    table = pa.concat_tables([part(), part(2)]).slice(1, 7)
    expected = np.concatenate([pack(LATENTS)[1:], pack(LATENTS)[2:4]])
    np.testing.assert_array_equal(packed_latents(table), expected)
    assert packed_latents(table.slice(0, 0)).shape == (0, 2)


def test_digest_covers_every_column_but_not_the_order_of_rows():
    shuffled = part().take([3, 1, 5, 0, 2, 4])
    assert part_digest(shuffled) == part_digest(part())
    changed = part().set_column(2, "label", pa.array([3, 1, None, 3, 1, 9]))
    assert part_digest(changed) != part_digest(part())


def test_parts_with_another_model_or_latent_width_are_refused(tmp_path):
    table = open_latent_table(published(tmp_path, part()))
    name = table.parts[0]
    assert table.read(name)["key"].to_pylist() == [f"k{i}" for i in range(6)]
    write_parquet(table.uri, name, part(model="m2"))
    with pytest.raises(UserError, match="holds latents of model m2; the table's model is m1"):
        table.read(name)
    wide = latent_rows(pa.array(["k"]), np.zeros((1, 3), dtype=np.uint8), pa.table({}), 20, "m1")
    write_parquet(table.uri, name, wide)
    with pytest.raises(UserError, match=r"latents of type fixed_size_binary\[3\]; the table's have 11 bits"):
        table.read(name)
    (tmp_path / "latents" / name).write_bytes(b"PAR1")
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        table.read(name)


@pytest.mark.parametrize(
    ("change", "use", "match"),
    [
        (
            lambda p: p.replace_schema_metadata({b"lbae.model_fingerprint": b"m1"}),
            "digest",
            "has no digest of its",
        ),
        (lambda p: with_metadata(p, rows_digest="zz"), "digest", "damaged: the digest of its rows is 'zz'"),
        (
            lambda p: with_metadata(p, rows_digest="9" * 5000),
            "footer",
            "damaged: the digest of its rows is '999",
        ),
        (
            lambda p: p.set_column(1, "latent", pa.nulls(6, pa.binary(2))),
            "batches",
            "6 of 6 rows have no latent",
        ),
        (lambda p: p.drop_columns(["latent"]), "read", "has latents of type none; the table's have 11 bits"),
        (
            lambda p: p.drop_columns(["key"]),
            "keys",
            r"has columns key of types \[\]; allowed: one of type string",
        ),
        (
            lambda p: p.set_column(0, "key", pa.array(range(6))),
            "keys",
            "columns key of types .*int64.*; allowed",
        ),
        (lambda p: pa.concat_tables([p, p]), "read", "damaged: it has 12 rows, more than the 6 of its table"),
        (lambda p: pa.concat_tables([p, p]), "keys", "damaged: it has 12 rows, more than the 6 of its table"),
    ],
)
def test_damaged_and_hostile_parts_are_refused(tmp_path, change, use, match):
    table = open_latent_table(published(tmp_path, part()))
    write_parquet(table.uri, table.parts[0], change(part()))
    uses = {
        "digest": table.digest,
        "keys": lambda: list(table.keys(table.parts[0])),
        "read": lambda: table.read(table.parts[0]),
        "footer": lambda: table.footer(table.parts[0], []),
        "batches": lambda: list(table.batches(table.footer(table.parts[0], [])[0], ["key", "latent"])),
    }
    with pytest.raises(UserError, match=rf"{table.parts[0]} .*({match})"):
        uses[use]()


def with_metadata(table: pa.Table, **fields: str) -> pa.Table:
    return table.replace_schema_metadata(
        {**table.schema.metadata, **{f"lbae.{name}".encode(): text for name, text in fields.items()}}
    )


@pytest.mark.parametrize(
    ("section", "value", "match"),
    [
        ("config", {"latent_dim": "11"}, "config.latent_dim is '11'; allowed: int"),
        ("config", {"latent_dim": 10**30}, "config.latent_dim is 1000.*; allowed: 1 to 65536"),
        ("config", {"latent_dim": -3}, "config.latent_dim is -3; allowed: 1 to 65536"),
        ("config", {}, "config.latent_dim is None; allowed: int"),
        ("parents", {"data": "d"}, "parents.model is None; allowed: str"),
    ],
)
def test_a_table_whose_manifest_lacks_what_readers_need_is_refused(tmp_path, section, value, match):
    uri = published(tmp_path, part())
    manifest = tmp_path / "latents" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), section: value}))
    with pytest.raises(UserError, match=rf"manifest.json is damaged: {match}"):
        open_latent_table(uri)


def test_a_precision_that_no_codec_has_is_refused(tmp_path):
    table = open_latent_table(published(tmp_path, part()))
    with pytest.raises(UserError, match=r"result\.precision is None; allowed: float32, bfloat16"):
        assert table.precision


def attributes_of(rows: pa.Table, *wanted: str):
    wanted = wanted or ("all",)
    values = column_values(rows, columns_to_scan(wanted, rows.schema))
    chosen = select_attributes(wanted, values, other_columns(rows.schema))
    present, absent = indicators(rows, chosen)
    named = enumerate(attribute.name for attribute in chosen)
    return {
        name: (present[:, i].astype(int).tolist(), absent[:, i].astype(int).tolist()) for i, name in named
    }


def test_bool_columns_and_classes():
    assert attributes_of(ROWS) == {
        "label=0": ([0, 0, 0, 0, 0, 1], [1, 1, 0, 1, 1, 0]),
        "label=1": ([0, 1, 0, 0, 1, 0], [1, 0, 0, 1, 0, 1]),
        "label=3": ([1, 0, 0, 1, 0, 0], [0, 1, 0, 0, 1, 1]),
        "smiling": ([1, 0, 0, 1, 1, 0], [0, 0, 1, 0, 0, 1]),
    }


def test_integer_flags():
    assert attributes_of(pa.table({"a": [0, 1, 1]})) == {"a": ([0, 1, 1], [1, 0, 0])}
    assert attributes_of(pa.table({"a": [-1, 1, 0]})) == {"a": ([0, 1, 0], [1, 0, 0])}


def test_string_classes_and_columns_without_attributes():
    rows = pa.table({"key": ["a", "b"], "kind": ["cat", "dog"], "score": [0.1, 0.2]})
    assert attributes_of(rows) == {"kind=cat": ([1, 0], [0, 1]), "kind=dog": ([0, 1], [1, 0])}
    many = pa.table({"id": list(range(1000))})
    assert attributes_of(many) == {}
    with pytest.raises(UserError, match=r"column 'id' cannot be used as attributes \(more than 200 values\)"):
        attributes_of(many, "id")


def test_selection_by_column_and_by_name():
    assert list(attributes_of(ROWS, "smiling", "label=1")) == ["smiling", "label=1"]
    assert list(attributes_of(ROWS, "label")) == ["label=0", "label=1", "label=3"]
    assert attributes_of(ROWS, "none") == {}
    with pytest.raises(UserError, match="unknown attribute 'smilling'; did you mean 'smiling'"):
        attributes_of(ROWS, "smilling")
    with pytest.raises(UserError, match="unknown attribute 'smiling,label'; give one name at a time"):
        attributes_of(ROWS, "smiling,label")


FLAGS = [1, 0, None, 1]


@pytest.mark.parametrize(
    "kind",
    [
        pa.bool_(),
        pa.int8(),
        pa.uint64(),
        pa.float16(),
        pa.float64(),
        pa.decimal128(3, 1),
        pa.decimal256(40),
        pa.dictionary(pa.int8(), pa.int64()),
    ],
)
def test_flags_are_read_from_every_type_that_can_hold_them(kind):
    if pa.types.is_dictionary(kind):
        column = pa.array(FLAGS).dictionary_encode()
    else:
        convert = bool if pa.types.is_boolean(kind) else Decimal if pa.types.is_decimal(kind) else int
        column = pa.array([None if flag is None else convert(flag) for flag in FLAGS], kind)
    assert attributes_of(pa.table({"a": column})) == {"a": ([1, 0, 0, 1], [0, 1, 0, 0])}


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["x", "y", None]),
        pa.array(["x", "y", None], pa.string_view()),
        pa.array(["x", "y", None], pa.large_string()),
        pa.array(["x", "y", None]).dictionary_encode(),
        pa.array(["x", "y", None], pa.large_string()).dictionary_encode(),
    ],
)
def test_classes_are_read_from_every_type_of_string(column):
    expected = {"a=x": ([1, 0, 0], [0, 1, 0]), "a=y": ([0, 1, 0], [1, 0, 0])}
    assert attributes_of(pa.table({"a": column})) == expected
    chunks = pa.table({"a": pa.chunked_array([column[:1], column[1:]])})
    assert attributes_of(chunks) == expected, "each chunk has its own dictionary"


def test_nan_is_unknown_and_whole_floats_are_classes():
    rows = pa.table({"a": [3.0, float("nan"), None, 7.0]})
    assert attributes_of(rows) == {"a=3": ([1, 0, 0, 0], [0, 0, 0, 1]), "a=7": ([0, 0, 0, 1], [1, 0, 0, 0])}


LEFT_OUT = pa.table(
    {
        "day": pa.array([1, 2], pa.date32()),
        "tags": [["a"], ["b"]],
        "score": [0.5, 1.0],
        "nothing": pa.array([None, None], pa.int64()),
        "good": [True, False],
        "key": ["a", "b"],
    }
)
WHY = {
    "day": r"type date32\[day\]",
    "tags": "type list<.*>",
    "score": "fractions",
    "nothing": "no known value",
}


def test_columns_that_give_no_attributes_are_named_with_the_reason():
    assert list(attributes_of(LEFT_OUT)) == ["good"]
    values = column_values(LEFT_OUT, columns_to_scan(("all",), LEFT_OUT.schema))
    assert {**other_columns(LEFT_OUT.schema), **unusable_columns(values)}.keys() == WHY.keys()
    for column, reason in WHY.items():
        with pytest.raises(
            UserError, match=rf"column '{column}' cannot be used as attributes \({reason}\); allowed"
        ):
            attributes_of(LEFT_OUT, "good", column)
    with pytest.raises(UserError, match="unknown attribute 'goood'; did you mean 'good'"):
        attributes_of(LEFT_OUT, "goood")
    with pytest.raises(UserError, match="unknown attribute 'goood'; did you mean 'good'"):
        attributes_of(LEFT_OUT, "good", "goood")


NAMES = ["café", "tench, Tinca tinca", "a=b", " lead", "trail ", "not safe", "x" * 300, "a,b", "a"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_attributes_of_any_name_can_be_selected(name, form):
    rows = pa.table({"label": [unicodedata.normalize("NFD", one) for one in NAMES], "b": [0, 1] * 4 + [0]})
    asked = f"label={unicodedata.normalize(form, name)}"
    stored = f"label={unicodedata.normalize('NFD', name)}"
    assert list(attributes_of(rows, "b", asked)) == ["b", stored]
    assert len(attributes_of(rows, "label")) == len(NAMES)


@pytest.mark.parametrize("name", ["tench, Tinca (é)", "a=b", "not safe"])
def test_a_column_may_have_any_name(name):
    rows = pa.table({unicodedata.normalize("NFD", name): [True, False], "c": ["x", "y"]})
    assert len(attributes_of(rows, name, "c")) == 3


@pytest.mark.parametrize("value", [2**63, 10**30])
def test_no_column_of_integers_holds_a_larger_value(value):
    assert not can_hold(pa.int64(), Attribute(name="a", column="a", yes=value, no=0))


def test_a_table_that_does_not_record_its_model_is_named(tmp_path):
    table = open_latent_table(published(tmp_path, part()))
    with pytest.raises(UserError, match="did not record the location of its model; give it, or encode"):
        table.made_from("model")


FOLLOWED = ["/m", "s3://b/m", "hf://datasets/a/b"]
NOT_FOLLOWED = [
    "http://127.0.0.1/m",
    "https://a/m",
    "memory://m",
    "simplecache::s3://b/m",
    "zip://a::/b",
    "github://a/b",
]


@pytest.mark.parametrize("name", ["model", "data"])
@pytest.mark.parametrize("place", FOLLOWED + NOT_FOLLOWED)
def test_a_table_cannot_make_a_job_fetch_from_any_server(tmp_path, name, place):
    uri = published(tmp_path, part())
    change_manifest(uri, result={name: place})
    table = open_latent_table(uri)
    if place in FOLLOWED:
        assert table.made_from(name) == place
    else:
        with pytest.raises(UserError, match=f"names '{place}' as its {name}; .*give it"):
            table.made_from(name)


@pytest.mark.parametrize("files", [[], ["manifest.json"]])
def test_a_table_with_rows_and_no_part_is_damaged(files, tmp_path):
    uri = published(tmp_path, part())
    change_manifest(uri, files=files)
    with pytest.raises(UserError, match=r"manifest\.json is damaged: it names no part with latents"):
        open_latent_table(uri).schema()


def keys_of(table) -> list[str]:
    return [key for keys in table.keys(table.parts[0]) for key in keys.to_pylist()]


def test_keys_of_several_row_groups_are_read_and_a_long_key_is_refused(tmp_path):
    table = open_latent_table(published(tmp_path, part()))
    write_parquet(table.uri, table.parts[0], part(), [2, 4])
    assert keys_of(table) == [f"k{i}" for i in range(6)]
    long = part().set_column(0, "key", pa.array(["k" * 5000] * 6))
    write_parquet(table.uri, table.parts[0], long)
    with pytest.raises(UserError, match="damaged: it has a key of 5000 bytes; allowed: at most 4096"):
        keys_of(table)


def test_a_key_that_a_part_holds_twice_is_refused(tmp_path):
    """A dictionary holds a repeated key once, so a small file could fill the memory."""
    table = open_latent_table(published(tmp_path, part()))
    twice = part().set_column(0, "key", pa.array(["k"] * 6))
    write_parquet(table.uri, table.parts[0], twice)
    with pytest.raises(UserError, match="damaged: it has a key more than once"):
        keys_of(table)


@pytest.mark.parametrize("files", [["data/part", "data/part"], ["data/\x1b[2J"]])
def test_files_named_twice_or_with_control_characters_are_refused(tmp_path, files):
    uri = published(tmp_path, part())
    change_manifest(uri, files=files)
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        open_latent_table(uri)


def test_a_kind_that_no_message_can_show_is_refused(tmp_path):
    uri = published(tmp_path, part())
    for kind in ("k" * 10**6, "\x1b[31mred"):
        change_manifest(uri, kind=kind)
        with pytest.raises(UserError, match=r"kind or fingerprint is .*; allowed: up to 200") as caught:
            open_latent_table(uri)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 1000


def change_manifest(uri: str, **entries) -> None:
    place = Path(uri, "manifest.json")
    place.write_text(json.dumps(json.loads(place.read_text()) | entries))
