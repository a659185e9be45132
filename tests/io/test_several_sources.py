"""Several sources as one: keys that begin with their names, promoted columns; refusals by name."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from lbae.config import ModelConfig
from lbae.errors import UserError
from lbae.io.images import encode_png
from lbae.io.sources.decode import decode_keys
from lbae.io.sources.hashes import held_out
from lbae.io.sources.plan import plan
from lbae.io.sources.source import read_shard, shard_keys
from tests.conftest import image_table, write_tar

CONFIG = ModelConfig(image_size=32, image_channels=1, channels=(8, 8, 8))


def png(value: int) -> bytes:
    return encode_png(np.full((40, 40, 1), value, dtype=np.uint8))


@pytest.fixture
def sources(tmp_path) -> dict[str, str]:
    """A table, tars and files, with equal file names in two places."""
    image_table(
        tmp_path / "one" / "photos" / "part-0.parquet", [png(i) for i in range(5)], label=[0, 1, 2, 3, 4]
    )
    image_table(
        tmp_path / "two" / "photos" / "part-0.parquet",
        [png(i) for i in range(50, 53)],
        label=[0.5, 1.0, None],
    )
    (tmp_path / "tars").mkdir()
    write_tar(tmp_path / "tars" / "a.tar", {"x.png": png(90), "y.png": png(91)})
    (tmp_path / "files").mkdir()
    for i in (70, 71):
        (tmp_path / "files" / f"{i}.png").write_bytes(png(i))
    return {
        "one": str(tmp_path / "one" / "photos"),
        "two": str(tmp_path / "two" / "photos"),
        "tars": str(tmp_path / "tars"),
        "files": str(tmp_path / "files"),
    }


def keys_of(source) -> list[str]:
    return [key for shard in source.shards for key in shard_keys(shard).to_pylist()]


def test_a_single_source_keeps_its_keys_and_its_fingerprint(sources):
    assert plan([sources["one"]]) == plan(sources["one"])
    assert keys_of(plan(sources["one"])) == [f"part-0.parquet:{i}" for i in range(5)]


def test_keys_begin_with_the_names_of_the_sources(sources):
    found = plan([sources["one"], f"more={sources['two']}", sources["tars"], sources["files"]])
    assert sorted(keys_of(found)) == sorted(
        [f"photos/part-0.parquet:{i}" for i in range(5)]
        + [f"more/part-0.parquet:{i}" for i in range(3)]
        + ["tars/a.tar:x", "tars/a.tar:y", "files/70.png", "files/71.png"]
    )
    assert keys_of(plan(f"more={sources['two']}")) == [f"more/part-0.parquet:{i}" for i in range(3)]
    rows = pa.concat_tables([read_shard(shard) for shard in found.shards])
    assert rows["key"].to_pylist() == keys_of(found)
    assert [shard.index for shard in found.shards] == list(range(len(found.shards)))
    assert [shard.start for shard in found.shards] == [0, *np.cumsum([s.rows for s in found.shards])[:-1]]


def test_columns_are_promoted_and_null_where_a_source_lacks_them(sources):
    found = plan([f"a={sources['one']}", f"b={sources['two']}", sources["tars"]])
    rows = pa.concat_tables([read_shard(shard) for shard in found.shards])
    labels = dict(zip(rows["key"].to_pylist(), rows["label"].to_pylist(), strict=True))
    assert rows.schema.field("label").type == pa.float64()
    assert (labels["a/part-0.parquet:3"], labels["b/part-0.parquet:0"], labels["tars/a.tar:x"]) == (
        3.0,
        0.5,
        None,
    )


def test_images_are_found_by_their_keys(sources):
    found = plan([f"a={sources['one']}", f"b={sources['two']}", sources["files"]])
    keys = ["b/part-0.parquet:1", "files/70.png", "a/part-0.parquet:4"]
    assert decode_keys(found, CONFIG, keys)[:, 0, 0, 0].tolist() == [51, 70, 4]


def test_neither_order_nor_other_sources_change_keys_held_out_rows_or_the_fingerprint(sources):
    a, b, c = f"a={sources['one']}", f"b={sources['two']}", sources["tars"]
    assert plan([a, b, c]) == plan([c, b, a])
    assert len({plan(given).fingerprint for given in (a, b, sources["one"], [a, b], [a, b, c])}) == 5
    both = keys_of(plan([a, b]))
    assert both == keys_of(plan(a)) + keys_of(plan(b))
    assert held_out(pa.array(both)).tolist() == [
        *held_out(pa.array(keys_of(plan(a)))).tolist(),
        *held_out(pa.array(keys_of(plan(b)))).tolist(),
    ]
    assert {plan(a).fingerprint, plan(b).fingerprint} < plan([a, b]).fingerprints


def test_what_a_table_records_gives_the_same_plan_again(sources, monkeypatch):
    for given in (sources["one"], f"a={sources['one']}", [sources["one"], sources["files"]]):
        assert plan(plan(given).given) == plan(given)
    monkeypatch.chdir(Path(sources["one"]).parent)
    assert plan("photos") == plan(sources["one"])


def test_a_path_with_an_equals_sign_is_a_path(sources, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("label=cat").mkdir()
    Path("label=cat/1.png").write_bytes(png(1))
    assert keys_of(plan("label=cat")) == ["1.png"]
    assert keys_of(plan("x=label=cat")) == ["x/1.png"]


def test_sources_that_cannot_be_one_are_refused_by_name(sources, tmp_path):
    one, two = sources["one"], sources["two"]
    with pytest.raises(
        UserError, match=r"one/photos and \S+two/photos have the same name 'photos'.*NAME=URI"
    ):
        plan([one, two])
    with pytest.raises(UserError, match="have the same name 'a'"):
        plan([f"a={one}", f"a={two}"])
    with pytest.raises(UserError, match="hold the same files, whose images would count twice"):
        plan([f"a={one}", f"b={one}"])
    with pytest.raises(UserError, match="hold the same files"):
        plan([str(Path(one).parent), one])
    with pytest.raises(UserError, match=r"data .*gone does not exist"):
        plan([one, f"b={tmp_path}/gone"])
    image_table(tmp_path / "label=cat" / "a.parquet", [png(1)], label=[1])
    with pytest.raises(UserError, match=r"label=cat is one of several and needs a name without = and :"):
        plan([one, str(tmp_path / "label=cat")])
    with pytest.raises(UserError, match="no data was given"):
        plan([])
    image_table(tmp_path / "text" / "a.parquet", [png(1)], label=["cat"])
    with pytest.raises(UserError, match=r"'label' is int64 in \S+one/photos and string in \S+/text"):
        plan([one, str(tmp_path / "text")])
    with pytest.raises(UserError, match=rf"output \S+ lies in the data {two}"):
        plan([f"a={one}", f"b={two}"]).check_output(str(tmp_path / "ok"), f"{two}/out")
