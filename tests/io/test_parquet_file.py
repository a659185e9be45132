"""Errors name the Parquet file that cannot be read, whatever is wrong with it."""

import importlib
import pickle
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lbae.errors import TransientStorageError, UserError
from lbae.io.storage.location import resolve
from lbae.io.storage.parquet_file import open_parquet
from tests.s3_server import refusing_server

TABLE = pa.table({"x": np.random.default_rng(0).integers(0, 2**60, 200_000)})


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"no Parquet"),
        lambda path: path.write_bytes(path.read_bytes()[:-9]),
        lambda path: path.write_bytes(path.read_bytes()[9:]),
        flip,
    ],
    ids=["missing", "empty", "text", "cut at its end", "cut at its start", "a flipped bit"],
)
def test_a_missing_or_damaged_file_raises_a_user_error(tmp_path, damage):
    path = tmp_path / "a.parquet"
    pq.write_table(TABLE, path, write_page_checksum=True)
    damage(path)
    with (
        pytest.raises(UserError, match=rf"{re.escape(str(path))} cannot be read as Parquet: "),
        open_parquet(resolve(str(path))) as file,
    ):
        file.read()


def test_a_storage_that_stops_answering_during_a_read_raises_a_transient_error(s3, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with refusing_server(monkeypatch) as server:
        location = resolve("s3://bucket/a.parquet")
        with location.fs.open(location.path, "wb") as file:
            pq.write_table(TABLE, file)
        monkeypatch.setattr(location.fs, "retries", 1)

        def read() -> None:
            with open_parquet(location) as parquet:
                server.refusals = 10**6
                parquet.read()

        message = r"^s3://bucket/a.parquet cannot be read as Parquet: "
        with pytest.raises(TransientStorageError, match=message):
            read()


def extension_table(place: str) -> pa.Table:
    """A column, or one inside it, whose extension type is Ray's for objects; its values are pickles."""
    pickled = pa.field(
        "item",
        pa.large_binary(),
        metadata={"ARROW:extension:name": "ray.data.arrow_pickled_object", "ARROW:extension:metadata": ""},
    )
    values = pa.array([pickle.dumps(Marker())], pa.large_binary())
    if place == "column":
        return pa.Table.from_arrays([values], schema=pa.schema([pickled.with_name("x")]))
    if place == "struct":
        nested = pa.StructArray.from_arrays([values], fields=[pickled])
    else:
        nested = pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), values, type=pa.list_(pickled))
    return pa.table({"x": nested})


class Marker:
    """Its pickle creates the file ``ran`` in the current folder."""

    def __reduce__(self) -> tuple[object, ...]:
        return open, ("ran", "w")


@pytest.mark.parametrize("place", ["column", "struct", "list"])
def test_values_that_could_run_code_are_refused(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    pq.write_table(extension_table(place), "a.parquet")
    importlib.import_module("ray.data")  # registers the type
    with (
        pytest.raises(UserError, match=r"column 'x' .* type 'ray.data.arrow_pickled_object', whose values"),
        open_parquet(resolve("a.parquet")) as file,
    ):
        file.read().to_pylist()
    assert not Path("ran").exists()


def test_ray_tensors_and_arrows_own_extension_types_are_read(tmp_path):
    tensors = importlib.import_module("ray.data.extensions").ArrowTensorArray.from_numpy(np.eye(3))
    uuids = pa.array([b"0" * 16] * 3, pa.uuid())
    pq.write_table(pa.table({"x": tensors, "y": uuids}), tmp_path / "a.parquet")
    with open_parquet(resolve(str(tmp_path / "a.parquet"))) as file:
        np.testing.assert_array_equal(file.read()["x"].to_pylist(), np.eye(3))


def nested_footer(levels: int) -> bytes:
    """A Parquet file without rows: an integer in ``levels`` groups. Written by hand, as Arrow dies of it."""

    def element(name: bytes, kind: bytes, children: bytes) -> bytes:
        # Fields of thrift's compact protocol: type (integers), repetition (optional), name, children.
        return (
            kind + (b"\x25" if kind else b"\x35") + b"\x02\x18" + bytes([len(name)]) + name + children + b"\0"
        )

    def size(count: int) -> bytes:
        return bytes([count & 127 | 128, count >> 7 & 127 | 128, count >> 14])

    groups = element(b"a", b"", b"\x15\x02") * (levels + 1)
    schema = b"\x19\xfc" + size(levels + 2) + groups + element(b"x", b"\x15\x02", b"")
    footer = b"\x15\x02" + schema + b"\x16\0" + b"\x19\x0c" + b"\0"
    return b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1"


@pytest.mark.parametrize(("levels", "match"), [(33, "nested 33 levels deep"), (20_000, "10000 row groups")])
def test_deeply_nested_columns_are_refused(tmp_path, levels, match):
    (tmp_path / "a.parquet").write_bytes(nested_footer(levels))
    with (
        pytest.raises(UserError, match=rf"(?s)a\.parquet .*{match}"),
        open_parquet(resolve(str(tmp_path / "a.parquet"))),
    ):
        pass
