"""A search by an index finds what a scan finds, as far as it looks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbae.core.latents.hamming import nearest
from lbae.core.latents.inverted_lists import default_lists, learn_centres, nearest_lists
from lbae.core.latents.packing import pack
from lbae.distributed.latent_table.neighbours import nearest_in
from lbae.distributed.search_index import index_build
from lbae.distributed.search_index.index_build import measure_recall
from lbae.distributed.search_index.index_search import hits_by_index
from lbae.errors import UserError
from lbae.io.artifacts.latent_tables import open_latent_tables
from lbae.io.artifacts.manifest import read_manifest
from lbae.io.artifacts.search_index import ROW_BITS, IndexedLatents, open_search_index, write_index_part
from lbae.io.sources.plan import plan
from lbae.io.sources.source import read_shard
from lbae.io.storage.parquet_file import write_parquet
from lbae.jobs.build.index import index
from lbae.jobs.build.reduce import reduce
from tests.conftest import ROOT, write_latents

N = 90


def clustered(rows: int, seed: int = 0) -> np.ndarray:
    """Latents around 20 random ones, each bit flipped with a probability of a tenth."""
    rng = np.random.default_rng(seed)
    middles = rng.choice(np.array([-1, 1], dtype=np.int8), size=(20, N))
    flips = np.where(rng.random((rows, N)) < 0.1, -1, 1).astype(np.int8)
    return middles[rng.integers(0, 20, rows)] * flips


@pytest.fixture(scope="module")
def indexed(ray_session, tmp_path_factory):
    """Two tables, their latents, and the folder of an index of both."""
    out, latents = tmp_path_factory.mktemp("indexed"), clustered(6000)
    tables = [
        write_latents(out / "a", latents[:5000], {"label": list(range(5000))}, parts=3),
        write_latents(
            out / "b",
            latents[5000:],
            {"label": list(range(5000, 6000))},
            parts=2,
            numbers=np.arange(5000, 6000),
        ),
    ]
    result = index(latents=tables, out=str(out / "index"), lists=32)
    return open_latent_tables(tables), latents, str(out / "index"), result


def test_a_search_of_all_lists_finds_what_a_scan_finds(indexed):
    table, latents, uri, _ = indexed
    opened = open_search_index(uri, table)
    for query in latents[[3, 5500]]:
        packed = pack(query[None])
        hits = hits_by_index(table, opened, opened.lists, packed[0], 50)
        scanned = nearest_in(table, packed, 50)
        assert [hit.distance for hit in hits] == scanned.distances[0].tolist()
        labels = [table.row(hit.part, hit.row_group, hit.row)["label"] for hit in hits]
        assert [int((latents[label] != query).sum()) for label in labels] == [hit.distance for hit in hits]
        assert len(set(labels)) == 50


def test_a_search_of_few_lists_compares_with_exactly_their_rows(indexed):
    table, latents, uri, _ = indexed
    opened = open_search_index(uri, table)
    packed = pack(latents)
    lists = nearest_lists(opened.centres, packed, 1)[:, 0]
    for probes in (1, 3):
        probed = nearest_lists(opened.centres, packed[:1], probes)[0]
        members = np.flatnonzero(np.isin(lists, probed))
        expected, _ = nearest(packed[:1], packed[members], 40)
        hits = hits_by_index(table, opened, probes, packed[0], 40)
        assert [hit.distance for hit in hits] == expected[0].tolist()


def test_the_recall_is_that_of_searches(indexed):
    table, latents, uri, result = indexed
    opened, queries = open_search_index(uri, table), latents[:40]
    measured = measure_recall(opened, pack(queries))
    assert [*map(str, measured)] == [*result["recall"]] == ["1", "2", "4", "8", "16", "32"]
    assert measured[32] == result["recall"]["32"] == 1
    for probes in (1, 4):
        found = []
        for packed in pack(queries):
            near = nearest_in(table, packed[None], 21).hits(0)
            by_index = hits_by_index(table, opened, probes, packed, 6000)
            places = {(hit.part, hit.row_group, hit.row) for hit in by_index}
            found += [(hit.part, hit.row_group, hit.row) in places for hit in near[1:]]
        # Of latents equally far as the 20th, a scan and an index may take different ones.
        assert abs(measured[probes] - np.mean(found)) < 0.02
    assert opened.expected_recall(5) == result["recall"]["4"]
    assert result["recall"]["1"] > 0.5, "neighbours share a list more often than not"


def test_the_order_of_the_tables_does_not_matter(indexed, tmp_path):
    table, _, _, result = indexed
    again = index(latents=table.uris[::-1], out=str(tmp_path / "again"), lists=32)
    assert {**again, "out": "", "seconds": 0} == {**result, "out": "", "seconds": 0}


@given(rows=st.integers(1, 60), lists=st.integers(1, 8), seed=st.integers(0, 5))
@settings(max_examples=20)
def test_every_latent_is_in_the_list_of_its_nearest_centre(rows, lists, seed):
    packed = pack(clustered(rows, seed))
    if rows < lists:
        with pytest.raises(ValueError, match=f"{lists} lists need as many latents; there are {rows}"):
            learn_centres(packed, lists)
        return
    centres = learn_centres(packed, lists)
    distances = np.unpackbits(packed[:, None] ^ centres[None], axis=2).sum(axis=2)
    found = nearest_lists(centres, packed, lists)
    assert np.array_equal(np.take_along_axis(distances, found, axis=1), np.sort(distances, axis=1))
    assert np.array_equal(np.sort(found, axis=1), np.tile(np.arange(lists), (rows, 1)))


def test_the_number_of_lists_follows_the_rows():
    assert [default_lists(rows, 600) for rows in (1, 10, 1000, 10**6, 10**9)] == [1, 4, 32, 1024, 4096]
    assert default_lists(10**9, 6144) == 1024


def test_an_index_of_other_rows_is_refused(indexed, tmp_path):
    table, _, uri, _ = indexed
    single = open_latent_tables(table.uris[0])
    with pytest.raises(UserError, match=f"search index {uri} was made of latents with the fingerprint"):
        open_search_index(uri, single)
    with pytest.raises(UserError, match="is of kind latent table; allowed here: search index"):
        open_search_index(table.uris[0], table)


@pytest.mark.parametrize("what", ["gone", "columns", "place"])
def test_a_damaged_file_of_an_index_is_named(ray_session, tmp_path, what):
    latents = clustered(300)
    table = open_latent_tables(write_latents(tmp_path / "latents", latents))
    index(latents=table.uris, out=str(tmp_path / "index"))
    opened, file = open_search_index(str(tmp_path / "index"), table), tmp_path / "index" / "data"
    file /= "part-00000.parquet"
    if what == "gone":
        file.unlink()
    elif what == "columns":
        pq.write_table(pa.table({"latent": [b"x"]}), file)
    else:
        numbers = np.zeros(len(latents), dtype=np.int32)
        places = np.full(len(latents), (7 << ROW_BITS) + 5)
        wrong = IndexedLatents(packed=pack(latents), lists=numbers, places=places)
        write_index_part(str(tmp_path / "index"), 0, wrong)
    message = {
        "gone": "part-00000.parquet",
        "columns": "its columns are .*needed: latent .*, list .*, place",
        "place": "does not fit .*another latent for place",
    }
    with pytest.raises(UserError, match=message[what]):
        hits_by_index(table, opened, opened.lists, pack(latents)[0], 5)


def test_an_index_of_several_files_finds_what_a_scan_finds(ray_session, tmp_path, monkeypatch):
    monkeypatch.setattr(index_build, "_FILE_ROWS", 700)
    latents = clustered(3000)
    table = open_latent_tables(write_latents(tmp_path / "latents", latents))
    index(latents=table.uris, out=str(tmp_path / "index"))
    opened = open_search_index(str(tmp_path / "index"), table)
    assert len(opened.parts) == 5
    hits = hits_by_index(table, opened, opened.lists, pack(latents)[7], 30)
    assert [hit.distance for hit in hits] == nearest_in(table, pack(latents)[7:8], 30).distances[0].tolist()


def test_rows_written_anew_in_another_order_are_noticed(ray_session, tmp_path):
    latents = clustered(300)
    table = open_latent_tables(write_latents(tmp_path / "latents", latents))
    index(latents=table.uris, out=str(tmp_path / "index"))
    opened = open_search_index(str(tmp_path / "index"), table)
    part = table.tables[0].read(table.tables[0].parts[0])
    write_parquet(table.uris[0], table.tables[0].parts[0], part.take(np.arange(len(part))[::-1]))
    with pytest.raises(UserError, match=r"does not fit .*write it again, with --overwrite"):
        hits_by_index(table, opened, opened.lists, pack(latents)[0], 5)


def test_an_index_that_lacks_rows_is_refused(ray_session, tmp_path, monkeypatch):
    monkeypatch.setattr(index_build, "_FILE_ROWS", 100)
    table = open_latent_tables(write_latents(tmp_path / "latents", clustered(300)))
    index(latents=table.uris, out=str(tmp_path / "index"))
    manifest = json.loads((tmp_path / "index" / "manifest.json").read_text())
    manifest["files"].remove("data/part-00001.parquet")
    (tmp_path / "index" / "manifest.json").write_text(json.dumps(manifest))
    opened = open_search_index(str(tmp_path / "index"), table)
    with pytest.raises(UserError, match="its files hold 200 rows, its manifest says 300"):
        hits_by_index(table, opened, 4, pack(clustered(1))[0], 5)
    manifest["result"]["recall"] = {"1": 1.5}
    (tmp_path / "index" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"manifest\.json is damaged: result\.recall is"):
        open_search_index(str(tmp_path / "index"), table)


def test_tasks_get_the_place_of_an_index_whatever_their_folder(ray_session, tmp_path, monkeypatch):
    table = open_latent_tables(write_latents(tmp_path / "latents", clustered(300)))
    monkeypatch.chdir(tmp_path)  # the workers of the session stay where it began
    index(latents="latents", out="index")
    hits = hits_by_index(table, open_search_index("index", table), 16, pack(clustered(300))[0], 5)
    assert len(hits) == 5


@pytest.mark.parametrize("keys", [[None, "b"], [1, 2]])
def test_keys_that_are_no_texts_are_named_and_a_finished_index_stays(ray_session, tmp_path, keys):
    uri = write_latents(tmp_path / "latents", clustered(2), parts=1)
    index(latents=uri, out=str(tmp_path / "index"))
    table = pq.read_table(f"{uri}/data/part-00000.parquet")
    write_parquet(uri, "data/part-00000.parquet", table.set_column(0, "key", pa.array(keys)))
    with pytest.raises(UserError, match=r"part-00000\.parquet is damaged: its keys have the type"):
        index(latents=uri, out=str(tmp_path / "index"), overwrite=True)
    with pytest.raises(UserError, match=r"part-00000\.parquet is damaged: its keys have the type"):
        reduce(latents=uri, out=str(tmp_path / "moments"), unique=True)
    assert read_manifest(str(tmp_path / "index")).rows == 2


def test_a_pattern_passes_over_an_unfinished_index(ray_session, tmp_path):
    write_latents(tmp_path / "latents", clustered(300))
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / ".unfinished").write_text(json.dumps({"kind": "search index"}))
    assert index(latents=f"{tmp_path}/*", out=str(tmp_path / "index"))["rows"] == 300


def test_a_place_that_the_table_lacks_is_refused(ray_session, tmp_path):
    table = open_latent_tables(write_latents(tmp_path / "latents", clustered(300), row_group=50))
    for group, row in ((2, 0), (0, 50), (-1, 0), (0, -1)):
        with pytest.raises(UserError, match=f"it has no row {row} in a row group {group}"):
            table.row(table.parts[0], group, row)


@pytest.fixture(scope="module")
def picture(digits, tmp_path_factory) -> Path:
    """A digit of the table, as a file."""
    path = tmp_path_factory.mktemp("picture") / "a.png"
    path.write_bytes(read_shard(plan(str(digits)).shards[-1])["bytes"][7].as_py())
    return path


def test_the_jobs_write_and_use_an_index_without_ray(tmp_path, encoded_digits, picture, job):
    latents = encoded_digits
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "jobs/index.py", "--latents", latents, "--out", str(tmp_path / "index")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    assert "Ray" not in done.stderr
    result = json.loads(done.stdout)
    assert (result["rows"], result["recall"]["32"]) == (600, 1.0)
    search = ("search", "--latents", latents, "--image", picture, "--k", 5)
    found = job(*search, "--index", tmp_path / "index", "--probes", 32)
    assert found.code == 0, found.err
    by_index, by_scan = json.loads(found.out), json.loads(job(*search).out)
    assert (by_index["probes"], by_index["recall"]) == (32, 1.0)
    assert [hit["distance"] for hit in by_index["hits"]] == [hit["distance"] for hit in by_scan["hits"]]
    assert by_index["hits"][0] == by_scan["hits"][0]
    assert json.loads(job(*search, "--index", tmp_path / "index").out)["probes"] == 16
    assert json.loads(job("show", tmp_path / "index").out)["kind"] == "search index"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--probes", 3), "probes is 3, but no index is given; give --index as well"),
        (("--index", "{index}", "--probes", 0), "probes is 0; allowed: 1 to the 16 lists of {index}"),
        (("--index", "{index}", "--probes", 17), "probes is 17; allowed: 1 to the 16 lists of {index}"),
    ],
)
def test_wrong_options_of_a_search_are_named(tmp_path, job, encoded_digits, picture, options, message):
    place = str(tmp_path / "index")
    index(latents=encoded_digits, out=place, lists=16)
    given_options = [str(option).format(index=place) for option in options]
    refused = job("search", "--latents", encoded_digits, "--image", picture, *given_options)
    assert (refused.code, refused.error) == (2, f"error: {message.format(index=place)}")


@pytest.mark.parametrize("lists", [0, 601])
def test_a_wrong_number_of_lists_is_named(tmp_path, job, encoded_digits, lists):
    refused = job("index", "--latents", encoded_digits, "--out", tmp_path / "index", "--lists", lists)
    assert refused.code == 2
    message = f"error: lists is {lists}; allowed: 1 to 16384, and at most the 600 rows of {encoded_digits}"
    assert refused.error == message
