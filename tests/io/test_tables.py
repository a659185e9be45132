"""Latent tables and their attribute columns."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lbae.core.latents.packing import pack
from lbae.errors import UserError
from lbae.io.artifacts.attribute_columns import (
    candidate_columns,
    column_values,
    indicators,
    select_attributes,
)
from lbae.io.artifacts.latent_table import (
    KIND,
    latent_part,
    open_latent_table,
    packed_latents,
    part_digest,
    write_parquet,
)
from lbae.io.artifacts.output import Output

LATENTS = np.random.default_rng(0).choice(np.array([-1, 1], dtype=np.int8), size=(6, 11))
ROWS = pa.table({"label": [3, 1, None, 3, 1, 0], "smiling": [True, None, False, True, True, False]})


def part(first: int = 0, model: str = "m1") -> pa.Table:
    keys = pa.array([f"k{i}" for i in range(first, 6)])
    return latent_part(keys, pack(LATENTS[first:]), ROWS.slice(first), 11, model)


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


def test_digest_sees_every_column_and_no_order():
    shuffled = part().take([3, 1, 5, 0, 2, 4])
    assert part_digest(shuffled) == part_digest(part())
    changed = part().set_column(2, "label", pa.array([3, 1, None, 3, 1, 9]))
    assert part_digest(changed) != part_digest(part())


def test_parts_of_another_model_or_width_are_refused(tmp_path):
    table = open_latent_table(published(tmp_path, part()))
    name = table.parts[0]
    assert table.read(name)["key"].to_pylist() == [f"k{i}" for i in range(6)]
    write_parquet(table.uri, name, part(model="m2"))
    with pytest.raises(UserError, match="holds latents of model m2; the table is of m1"):
        table.read(name)
    wide = latent_part(pa.array(["k"]), np.zeros((1, 3), dtype=np.uint8), pa.table({}), 20, "m1")
    write_parquet(table.uri, name, wide)
    with pytest.raises(UserError, match=r"latents of type fixed_size_binary\[3\], not N = 11 bits"):
        table.read(name)
    (tmp_path / "latents" / name).write_bytes(b"PAR1")
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        table.read(name)


def attributes_of(rows: pa.Table, wanted: str = "all"):
    chosen = select_attributes(wanted, column_values(rows, candidate_columns(rows.schema)))
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


def test_string_classes_and_columns_that_are_no_attributes():
    rows = pa.table({"key": ["a", "b"], "kind": ["cat", "dog"], "score": [0.1, 0.2]})
    assert attributes_of(rows) == {"kind=cat": ([1, 0], [0, 1]), "kind=dog": ([0, 1], [1, 0])}
    many = pa.table({"id": list(range(1000))})
    assert attributes_of(many) == {}
    with pytest.raises(UserError, match=r"column 'id' cannot be used as attributes \(more than 200 values\)"):
        attributes_of(many, "id")


def test_selection_by_column_and_by_name():
    assert list(attributes_of(ROWS, "smiling,label=1")) == ["smiling", "label=1"]
    assert list(attributes_of(ROWS, "label")) == ["label=0", "label=1", "label=3"]
    assert attributes_of(ROWS, "none") == {}
    with pytest.raises(UserError, match="unknown attribute 'smilling'; did you mean 'smiling'"):
        attributes_of(ROWS, "smilling")


def test_a_table_that_does_not_say_what_it_was_made_from_is_named(tmp_path):
    table = open_latent_table(published(tmp_path, part()))
    with pytest.raises(UserError, match="does not say where its model lay: give it, or encode again"):
        table.made_from("model")
