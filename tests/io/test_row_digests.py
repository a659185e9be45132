"""Joins of digests give what sets of keys would give, in any order and for any number of buckets."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbae.io.sources.hashes import key_digests
from lbae.io.sources.plan import plan
from lbae.io.sources.source import leaving_out, read_shard
from lbae.io.storage.row_digests import KNOWN, RowDigests, concatenated, mark
from tests.conftest import image_table

ODD = ["a", "é", "e\u0301", "\0", "a\0", "\U0001f600.png"]
KEYS = st.lists(st.text(max_size=3) | st.sampled_from(ODD), max_size=30)


def digests_of(keys: list[str], first: int) -> RowDigests:
    rows = np.full(len(keys), KNOWN) if first == KNOWN else np.arange(first, first + len(keys))
    return RowDigests(digests=key_digests(pa.array(keys, pa.string())), rows=rows)


def expected(keys: list[str], known: list[str], distinct: bool) -> list[int]:
    """The rows to leave out, by sets of strings."""
    seen, rows = set(known), []
    for row, key in enumerate(keys):
        if key in seen:
            rows.append(row)
        if distinct:
            seen.add(key)
    return rows


@given(KEYS, KEYS, st.booleans(), st.sampled_from([1, 2, 7, 4096]), st.randoms())
def test_rows_left_out_are_those_of_sets_of_keys(keys, known, distinct, buckets, random):
    whole = concatenated([digests_of(known, KNOWN), digests_of(keys, 0)])
    order = list(range(len(whole)))
    random.shuffle(order)
    pieces = list(whole.take(np.array(order, dtype=np.int64)).buckets(buckets))
    assert len(pieces) == buckets
    bits = np.zeros(-(-len(keys) // 8), dtype=np.uint8)
    for piece in pieces:
        mark(bits, piece.rows[piece.left_out(distinct)])
    found = np.flatnonzero(np.unpackbits(bits, count=len(keys), bitorder="little"))
    assert found.tolist() == expected(keys, known, distinct)


def test_a_bucket_holds_its_share_of_the_digests():
    keys = [f"part-00000.parquet:{row}" for row in range(40_000)]
    sizes = [len(piece) for piece in digests_of(keys, 0).buckets(10)]
    assert sum(sizes) == 40_000
    assert max(sizes) < 1.1 * 4_000


def test_digests_that_differ_in_their_last_bit_are_not_equal():
    digests = np.array([bytes(15) + bytes([i]) for i in (0, 1, 0)], dtype="S16")
    rows = RowDigests(digests=digests, rows=np.arange(3))
    assert rows.left_out(distinct=True).tolist() == [False, False, True]


@given(st.lists(st.booleans(), min_size=12, max_size=12))
def test_marked_rows_are_left_out_of_their_shards(tables, marked):
    shards = tables
    rest = leaving_out(shards, np.packbits(marked, bitorder="little"))
    wanted = [row for row in range(12) if not marked[row]]
    assert sum(shard.rows_to_read for shard in rest) == len(wanted)
    assert all(shard.rows_to_read for shard in rest)
    read = [value for shard in rest for value in read_shard(shard)["number"].to_pylist()]
    assert read == wanted
    assert all(len(shard.excluded_rows) <= 1 for shard in rest), "one bit per row"


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """The shards of 12 rows, of 5 rows or fewer each."""
    folder = tmp_path_factory.mktemp("rows")
    image_table(folder / "a.parquet", [b"x"] * 12, row_group_size=5, number=list(range(12)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lbae.io.sources.plan.ROWS_PER_SHARD", 5)
        shards = plan(str(folder)).shards
    assert [shard.rows for shard in shards] == [5, 5, 2]
    return shards
