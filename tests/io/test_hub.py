"""Image tables at ``hf://``: Hugging Face's own client reads them from a local imitation of the Hub."""

import io
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lbae.errors import UserError
from lbae.io.sources.plan import plan
from lbae.io.sources.source import read_shard
from tests.conftest import SAMPLE
from tests.hub_server import Repository, running_hub


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Repository]:
    """The public data set ``some/digits``."""
    with running_hub(monkeypatch, str(tmp_path / "cache")) as hub:
        hub.repositories["datasets/some/digits"] = repository = Repository()
        repository.commit({"README.md": b"digits"})
        yield repository


def parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def test_a_table_on_the_hub_is_read_and_fingerprinted_by_its_content(repository):
    digits = pq.read_table(SAMPLE).slice(0, 300)
    parts = {"data/a.parquet": parquet(digits.slice(0, 200)), "data/b.parquet": parquet(digits.slice(200))}
    repository.commit({"README.md": b"digits", **parts})
    source = plan("hf://datasets/some/digits")
    assert [shard.files for shard in source.shards] == [("data/a.parquet",), ("data/b.parquet",)]
    rows = [row for shard in source.shards for row in read_shard(shard).to_pylist()]
    assert [row["bytes"] for row in rows] == [image["bytes"] for image in digits["image"].to_pylist()]
    assert plan("hf://datasets/some/digits").fingerprint == source.fingerprint
    changed = bytearray(parts["data/a.parquet"])
    changed[100] ^= 1  # the Hub gives sizes and digests, but no times
    repository.commit({**repository.files, "data/a.parquet": bytes(changed)})
    assert plan("hf://datasets/some/digits").fingerprint != source.fingerprint


def test_a_path_that_is_missing_on_the_hub_is_named(repository):
    with pytest.raises(UserError, match="data hf://datasets/some/digits/none does not exist"):
        plan("hf://datasets/some/digits/none")
