"""Exported latents: what other tools read is what the table holds, and they find the same neighbours."""

import json
import re
import sys
from pathlib import Path

import faiss
import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lbae.core.latents.hamming import nearest
from lbae.core.latents.packing import pack, to_ubinary
from lbae.io.artifacts.latent_table import open_latent_table
from lbae.io.artifacts.manifest import read_manifest
from lbae.io.storage.location import resolve
from lbae.jobs.inspect.export import export
from tests.conftest import ROOT, run_job, write_latents

FORMATS = ("faiss", "npy", "lance")
GOLDEN = ROOT / "tests" / "golden" / "v1"


def signs(rows: int, size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).choice(np.array([-1, 1], dtype=np.int8), size=(rows, size))


def stored(folder: Path, kind: str) -> tuple[np.ndarray, pa.Table]:
    """The codes (rows, bytes) and the other columns, read with the format's own library alone."""
    if kind == "lance":
        table = lance.dataset(f"{folder}/latents.lance").to_table()
        width = table["latent"].type.list_size
        codes = table["latent"].combine_chunks().flatten().to_numpy().reshape(-1, width)
        return codes, table.drop_columns("latent")
    keys = pq.read_table(folder / "keys.parquet")
    if kind == "npy":
        return np.load(folder / "latents.npy", mmap_mode="r"), keys
    index = faiss.read_index_binary(f"{folder}/latents.faiss")
    return faiss.vector_to_array(index.xb).reshape(index.ntotal, -1), keys


def found(folder: Path, kind: str, queries: np.ndarray, k: int) -> list[list[tuple[int, str]]]:
    """Distances and keys of the k nearest of each query, by the tool that the format is for."""
    if kind == "lance":
        table = lance.dataset(f"{folder}/latents.lance")
        hits = [
            table.to_table(
                columns=["key", "_distance"],
                nearest={"column": "latent", "q": query, "k": k, "metric": "hamming"},
            )
            for query in queries
        ]
        return [[(int(row["_distance"]), row["key"]) for row in rows.to_pylist()] for rows in hits]
    codes, table = stored(folder, kind)
    keys = table["key"].to_pylist()
    if kind == "faiss":
        distances, rows = faiss.read_index_binary(f"{folder}/latents.faiss").search(queries, k)
    else:
        every = np.bitwise_count(queries[:, None] ^ codes[None]).sum(axis=2)
        rows = np.argsort(every, axis=1, kind="stable")[:, :k]
        distances = np.take_along_axis(every, rows, axis=1)
    return [
        [(int(d), keys[row]) for d, row in zip(*pair, strict=True)]
        for pair in zip(distances, rows, strict=True)
    ]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("size", [96, 11, 1])
def test_rows_keep_their_order_and_columns(kind, size, tmp_path):
    latents, columns = signs(350, size), {"label": list(range(350)), "fold": [None, "a"] * 175}
    uri = write_latents(tmp_path / "table", latents, columns)
    result = export(latents=uri, out=str(tmp_path / "out"), format=kind)
    codes, rest = stored(tmp_path / "out", kind)
    np.testing.assert_array_equal(codes, np.packbits(latents > 0, axis=1))
    assert rest.to_pydict() == {"key": [f"k{i}" for i in range(350)], **columns}
    assert not rest.schema.metadata, "the digest in the metadata of a part is not that of all rows"
    manifest = read_manifest(str(tmp_path / "out"))
    assert (result["rows"], result["format"], result["latent_dim"]) == (350, kind, size)
    assert manifest.parents == {"latents": read_manifest(uri).fingerprint, "model": "m1"}
    written = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert written == {*manifest.files, "manifest.json"}


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("size", [200, 13])  # 13 bits: 2**13 codes for 3,000 rows, so most distances tie
def test_every_tool_finds_the_neighbours_that_a_search_finds(kind, size, tmp_path):
    latents, k = signs(3000, size), 20
    uri = write_latents(tmp_path / "table", latents)
    export(latents=uri, out=str(tmp_path / "out"), format=kind)
    queries = latents[[5, 1700]] * np.where(np.random.default_rng(1).random((2, size)) < 0.1, -1, 1)
    queries = np.vstack([queries, signs(1, size, seed=2)]).astype(np.int8)
    distances, rows = nearest(pack(queries), pack(latents), k)
    answers = found(tmp_path / "out", kind, np.packbits(queries > 0, axis=1), k)
    for query, answer, expected, places in zip(queries, answers, distances, rows, strict=True):
        assert sorted(distance for distance, _ in answer) == expected.tolist()
        assert len({key for _, key in answer}) == k
        for distance, key in answer:
            assert distance == (latents[int(key[1:])] != query).sum()
        # Which of the rows at the largest distance are found is up to the tool.
        nearer = {f"k{place}" for d, place in zip(expected, places, strict=True) if d < expected[-1]}
        assert nearer <= {key for _, key in answer}


def test_an_index_of_lance_finds_the_same_when_all_partitions_are_probed(tmp_path):
    latents = signs(3000, 64)
    export(latents=write_latents(tmp_path / "table", latents), out=str(tmp_path / "out"), format="lance")
    queries = np.packbits(signs(3, 64, seed=2) > 0, axis=1)
    before = found(tmp_path / "out", "lance", queries, 20)
    table = lance.dataset(f"{tmp_path}/out/latents.lance")
    table.create_index("latent", "IVF_FLAT", metric="hamming", num_partitions=4)
    after = found(tmp_path / "out", "lance", queries, 20)
    assert [[d for d, _ in hits] for hits in after] == [[d for d, _ in hits] for hits in before]


@pytest.mark.parametrize("bits", [1, 8, 13, 64])
def test_ubinary_is_numpys_default_order(bits):
    latents = signs(50, bits)
    np.testing.assert_array_equal(to_ubinary(pack(latents)), np.packbits(latents > 0, axis=1))


@pytest.mark.parametrize("kind", FORMATS)
def test_images_stay_behind(kind, tmp_path):
    columns = {"image": [{"bytes": b"x", "path": "p"}] * 9, "label": list(range(9))}
    export(latents=write_latents(tmp_path / "t", signs(9, 8), columns), out=f"{tmp_path}/o", format=kind)
    assert stored(tmp_path / "o", kind)[1].column_names == ["key", "label"]


def test_the_job_needs_no_ray_and_finds_its_own_result(tmp_path):
    asked = ("export", "--latents", GOLDEN / "latents", "--out", tmp_path / "out", "--format")
    first = run_job(*asked, "npy")
    assert first.code == 0, first.err
    again = run_job(*asked, "npy")
    assert json.loads(again.out) == {**json.loads(first.out), "already": True}
    refused = run_job(*asked, "faiss")
    assert refused.code == 2
    assert "format was npy, is now faiss" in refused.error
    replaced = run_job(*asked, "faiss", "--overwrite")
    assert replaced.code == 0, replaced.err
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"manifest.json", "latents.faiss", "keys.parquet"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "neither of --model and --latents were given; give one of them"),
        ("--model m --latents l --format npy", "both of --model and --latents were given; give one of them"),
        ("--model m --format npy", "--format is for --latents only"),
        ("--latents l", "--latents was given without --format; allowed: faiss, npy, lance"),
        ("--latents l --format hnsw", "--format is 'hnsw'; allowed: faiss, npy, lance"),
        ("--latents l --format npy", "/l: it does not exist"),
        ("--latents {golden}/model --format npy", "model"),
        ("--latents {golden}/latents --format npy --out {golden}", "lies in the output"),
    ],
)
def test_mistakes_are_named(arguments, message, tmp_path):
    words = arguments.format(golden=GOLDEN).split()
    out = () if "--out" in words else ("--out", tmp_path / "out")
    refused = run_job("export", *words, *out)
    assert (refused.code, refused.out) == (2, "")
    assert message in refused.error
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lance", None)
    refused = run_job(
        "export", "--latents", GOLDEN / "latents", "--format", "lance", "--out", tmp_path / "out"
    )
    assert refused.code == 2
    assert "pip install 'lbae[lance]'" in refused.error


def test_an_empty_table_is_refused(tmp_path):
    uri = write_latents(tmp_path / "table", signs(0, 8), parts=1)
    refused = run_job("export", "--latents", uri, "--format", "npy", "--out", tmp_path / "out")
    assert (refused.code, "holds no rows" in refused.error) == (2, True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", FORMATS)
def test_a_damaged_part_is_named_and_nothing_is_published(kind, tmp_path):
    uri = write_latents(tmp_path / "table", signs(300, 16), {"label": list(range(300))})
    last = tmp_path / "table" / open_latent_table(uri).parts[-1]
    whole = pq.read_table(last)
    for change, message in (
        (lambda: last.write_bytes(b"nonsense"), "cannot be read as Parquet"),
        (lambda: pq.write_table(whole.drop_columns("label"), last), "has the columns key .*first part has"),
        (lambda: pq.write_table(whole.slice(1), last), "says 300 rows, but the parts hold 299"),
    ):
        change()
        refused = run_job("export", "--latents", uri, "--format", kind, "--out", tmp_path / "out")
        assert refused.code == 2
        assert re.search(message, refused.error), refused.error
        assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize("kind", FORMATS)
def test_tables_on_s3(kind, s3, tmp_path):
    latents = signs(300, 20)
    uri = write_latents(f"{s3}/table", latents, {"label": list(range(300))})
    result = export(latents=uri, out=f"{s3}/out", format=kind)
    assert result["rows"] == 300
    place = resolve(f"{s3}/out")
    for name in read_manifest(f"{s3}/out").files:
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((place / name).read_bytes())
    codes, rest = stored(tmp_path, kind)
    np.testing.assert_array_equal(codes, np.packbits(latents > 0, axis=1))
    assert rest["label"].to_pylist() == list(range(300))
