"""Mutations of an artifact's files, as damage and as an attacker would make them."""

import copy
import io
import json
import random
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

HOSTILE: tuple[Any, ...] = (
    *(None, True, False, "", "x", "12", "nan", "..", "../../x", "/etc/passwd", "a/../../b", "a\\b", "a\0b"),
    *("data/../../x", "\ud800", "y" * 10_000, [], {}, [[]], {"": {}}, [1, 2], ["x", "x"], {"model": 1}),
    *(-1, 0, 1, 2, 7, 64, 65_536, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf")),
)


def damaged(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """The bytes with bits flipped, bytes cut off, inserted or overwritten, or another file's bytes."""
    place, length = rng.randrange(len(data)), rng.choice([1, 8, 64, len(data)])
    junk = rng.choice([bytes(length), b"\xff" * length, rng.randbytes(length)])
    match rng.randrange(6):
        case 0 | 1:
            flipped = bytearray(data)
            for _ in range(rng.choice([1, 1, 4, 32])):
                flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            return bytes(flipped)
        case 2:
            return data[:place]
        case 3:
            return data[:place] + junk + data[place:]
        case 4:
            return data[:place] + junk + data[place + length :]
        case _:
            return rng.choice([*others, b"", junk])


def edited_json(data: bytes, rng: random.Random) -> bytes:
    """The JSON object with one entry replaced, removed, renamed or nested."""
    tree = json.loads(data)
    _edit(tree, rng)
    text = json.dumps(tree).encode()
    if rng.random() < 0.05:
        deep = rng.choice([20, 500, 200_000])
        text = text[:-1] + b', "deep": ' + b"[" * deep + b"]" * deep + b"}"
    if rng.random() < 0.05:
        text = text[:-1] + b', "long": ' + b"9" * rng.choice([400, 100_000]) + b"}"
    return text


def edited_tensors(data: bytes, rng: random.Random) -> bytes:
    """A safetensors file with another header, or with other numbers behind it."""
    size = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + size]), bytearray(data[8 + size :])
    match rng.randrange(5):
        case 0:
            claimed = rng.choice([0, 1, size - 1, size + 1, 2**20, 10**8, 2**32, 2**63, 2**64 - 1])
            return claimed.to_bytes(8, "little") + data[8:]
        case 1:
            _edit(header, rng)
        case 2:  # valid, with a number that is not finite or is extreme
            if body:
                place = rng.randrange(0, len(body), 4)
                bits = rng.choice([b"\xff" * 8, b"\0\0\x80\x7f" * 2, b"\0" * 6 + b"\xf0\x7f", bytes(8)])
                body[place : place + 8] = bits[: len(body[place : place + 8])]
        case 3:  # valid, with another shape of the same size
            tensor = header[rng.choice([name for name in header if name != "__metadata__"])]
            shape = tensor["shape"]
            tensor["shape"] = rng.choice([shape[::-1], [1, *shape], [*shape, 1], [sum(shape)]])
        case _:  # valid, with one row more or less
            name = rng.choice([name for name in header if name != "__metadata__"])
            body = _with_rows(header, body, name, rng.choice([-1, 1, 1000]))
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(body)


def edited_parquet(data: bytes, rng: random.Random) -> bytes:
    """A Parquet file with other columns, types, values or metadata."""
    table = pq.read_table(io.BytesIO(data))
    column = rng.randrange(table.num_columns)
    name, metadata = table.column_names[column], dict(table.schema.metadata or {})
    match rng.randrange(6):
        case 0:
            table = table.drop_columns([name])
        case 1:
            kind = rng.choice([pa.int8(), pa.string(), pa.binary(), pa.list_(pa.int8()), pa.float64()])
            table = table.set_column(column, name, pa.nulls(len(table), kind))
        case 2:
            table = table.set_column(column, name, pa.nulls(len(table), table.schema.field(name).type))
        case 3:
            table = pa.concat_tables([table] * rng.choice([2, 1000]))
        case 4:
            table = table.slice(0, rng.choice([0, 1]))
        case _:
            if metadata:
                key = rng.choice(list(metadata))
                metadata[key] = rng.choice([b"", b"-1", b"zz", b"\xff", b"9" * 5000, b"3", b"lsb"])
    length = None if len(table) > 1000 else rng.choice([1, 7, None])  # a long footer is no small file's
    out = io.BytesIO()
    kept = {key: value for key, value in metadata.items() if rng.random() < 0.95}
    pq.write_table(table.replace_schema_metadata(kept), out, row_group_size=length)
    return out.getvalue()


def mutated(name: str, data: bytes, others: list[bytes], rng: random.Random) -> bytes | None:
    """The content of the file ``name``, mutated; None to remove it.

    ``others`` is the content of the artifact's other files.
    """
    edits: dict[str, Callable[[bytes, random.Random], bytes]] = {
        "json": edited_json,
        "safetensors": edited_tensors,
        "parquet": edited_parquet,
    }
    if rng.random() < 0.01:
        return None
    if rng.random() < 0.4:
        return damaged(data, others, rng)
    return edits[name.rpartition(".")[2]](data, rng)


def _edit(tree: Any, rng: random.Random) -> None:
    """Change one entry somewhere in a tree of objects and lists."""
    while True:
        keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
        if not keys:
            tree.update(x=1) if isinstance(tree, dict) else tree.append(1)
            return
        key = rng.choice(keys)
        if not isinstance(tree[key], dict | list) or rng.random() < 0.2:
            break
        tree = tree[key]
    match rng.randrange(6):
        case 0:
            del tree[key]
        case 1:
            tree[key] = copy.deepcopy(tree[rng.choice(keys)])
        case 2 if isinstance(tree, dict):
            tree[rng.choice(["x", "../x", "", "__metadata__"])] = tree.pop(key)
        case 3 if isinstance(tree[key], int):
            tree[key] = tree[key] * rng.choice([-1, 2, 10, 10**6, 10**15])
        case _:
            tree[key] = copy.deepcopy(rng.choice(HOSTILE))


def _with_rows(header: dict[str, Any], body: bytearray, name: str, more: int) -> bytearray:
    """The body after ``more`` rows were added to the tensor ``name`` or taken from it; the header follows."""
    shape, (start, end) = header[name]["shape"], header[name]["data_offsets"]
    if not shape or not shape[0]:
        return body
    row = (end - start) // shape[0]
    more = max(more, -shape[0])
    shape[0] += more
    changed = body[: end + min(0, more) * row] + bytes(max(0, more) * row) + body[end:]
    for other in header.values():
        if "data_offsets" in other:
            other["data_offsets"] = [at + more * row * (at >= end) for at in other["data_offsets"]]
    return changed
