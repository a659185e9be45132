"""Every image of a source has exactly one row in the latent table, also after kills and lost nodes."""

import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import numpy as np
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from lbae import presets
from lbae.core.latents.packing import pack
from lbae.core.network.autoencoder import LatentBernoulliAutoencoder
from lbae.core.network.codec import Codec, best_precision
from lbae.errors import LbaeError, UserError
from lbae.io.artifacts import latent_parts
from lbae.io.artifacts.latent_parts import PART_LIMITS, PartPlan
from lbae.io.artifacts.latent_table import latent_rows, open_latent_table, part_digest
from lbae.io.artifacts.manifest import read_manifest
from lbae.io.artifacts.model_artifact import load_model, save_model
from lbae.io.artifacts.output import Output
from lbae.io.artifacts.written_part import Part
from lbae.io.images import encode_png
from lbae.io.sources.decode import decode_rows
from lbae.io.sources.plan import plan
from lbae.io.sources.source import leaving_out, read_shard
from lbae.io.storage.location import Location, resolve
from lbae.io.storage.lock import locked
from lbae.jobs.build.encode import encode
from tests.conftest import QUICK_DEATH, ROOT, SAMPLE, image_table, write_tar
from tests.s3_server import refusing_server

FILES, ROWS = 24, 50


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """An untrained LBAE with cells; its latents differ between images nonetheless."""
    out = str(tmp_path_factory.mktemp("model") / "model")
    config = presets.get("demo").replace(latent_grid=8, channels=(16, 32))
    network = LatentBernoulliAutoencoder(config.model, torch.Generator().manual_seed(0))
    output = Output(out, "model", parents={"data": "none"}, config=config.to_dict())
    save_model(output, network, config, {"images": 0})
    return out


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Digits as an image table of many small files, with 1 % damaged images."""
    folder = tmp_path_factory.mktemp("corpus")
    digits = pq.read_table(SAMPLE)["image"].combine_chunks().field("bytes").to_pylist()
    for file in range(FILES):
        cells = digits[file * ROWS : (file + 1) * ROWS]
        if file % 2:
            cells[file] = cells[file][:40]
        image_table(
            folder / f"{file:02d}.parquet", cells, label=[row % 10 for row in range(ROWS)], name=["x"] * ROWS
        )
    return folder


def rows_of(uri: Path | str) -> list[tuple]:
    table = pq.read_table(f"{uri}/data")
    return sorted(zip(*(table[name].to_pylist() for name in table.column_names), strict=True))


def expected(model: str, data: Path) -> list[tuple]:
    """The rows that a single process computes: decode, encode, pack."""
    codec, found = load_model(model), []
    for shard in plan(str(data)).shards:
        decoded = decode_rows(read_shard(shard), codec.config)
        packed = [row.tobytes() for row in pack(codec.encode(decoded.images))]
        rest = [decoded.rows[name].to_pylist() for name in decoded.rows.column_names[1:]]
        found += zip(decoded.rows["key"].to_pylist(), packed, *rest, strict=True)
    return sorted(found)


def encode_here(model: str, data: str, out: str) -> None:
    """Write the latent table that the job would write, without Ray."""
    codec, images, fingerprint = load_model(model), plan(data), read_manifest(model).fingerprint
    output = Output(
        out,
        "latent table",
        parents={"model": fingerprint, "data": images.fingerprint},
        config={"latent_dim": 128, "keep_images": False},
    )
    plans = latent_parts.plan_latent_parts(images.shards, keep_images=False)
    parts = [write_part(out, part, codec, fingerprint) for part in plans]
    latent_parts.publish_latents(output, parts, None, {"model": model, "data": images.uri})


def write_part(out: str, part: PartPlan, codec: Codec, fingerprint: str) -> Part:
    """Encode and write a part of one shard as an actor would, but in one batch."""
    (shard,) = part.shards
    decoded = decode_rows(read_shard(shard), codec.config)
    keys, rest = decoded.rows["key"].combine_chunks(), decoded.rows.drop_columns(["key"])
    latents = latent_rows(keys, pack(codec.encode(decoded.images)), rest, 128, fingerprint)
    made = ("cpu", codec.precision)
    return latent_parts.write_latent_part(out, part, [latents], decoded.quarantine, made)


@pytest.fixture(scope="module")
def undisturbed(ray_session, model, corpus, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "latents"
    encode(model=model, data=str(corpus), out=str(out), max_bad_fraction=0.02)
    return out


def test_the_table_equals_that_of_a_single_process(undisturbed, model, corpus):
    rows = rows_of(undisturbed)
    assert rows == expected(model, corpus)
    assert len(rows) == FILES * ROWS - FILES // 2
    (part,) = (undisturbed / "data").iterdir()
    assert pq.read_schema(part).metadata[b"lbae.latent_grid"] == b"8"
    manifest = read_manifest(str(undisturbed))
    assert (manifest.rows, manifest.result["bad"], manifest.result["precision"]) == (
        len(rows),
        12,
        load_model(model).precision,
    )
    assert sum(manifest.result["images_by_node"]) == FILES * ROWS
    assert len([name for name in manifest.files if name.startswith("data/")]) == 1, (
        "1200 latents are one part"
    )
    quarantine = pq.read_table(undisturbed / "quarantine")
    assert sorted(quarantine["key"].to_pylist()) == [
        f"{file:02d}.parquet:{file}" for file in range(1, FILES, 2)
    ]
    assert {path.name for path in undisturbed.iterdir()} == {"data", "quarantine", "manifest.json"}


def test_other_readers_read_the_table(undisturbed):
    rows = rows_of(undisturbed)
    names = "key, latent, path, label, name"
    found = duckdb.sql(f"select {names} from '{undisturbed}/data/*.parquet'").fetchall()
    assert sorted(found) == rows
    assert (
        sorted(polars.read_parquet(f"{undisturbed}/data/*.parquet").select(names.split(", ")).rows()) == rows
    )


def test_a_finished_table_is_not_encoded_again(undisturbed, model, corpus):
    before = (undisturbed / "manifest.json").read_bytes()
    again = encode(model=model, data=str(corpus), out=str(undisturbed), max_bad_fraction=0.02)
    assert again["already"]
    assert (undisturbed / "manifest.json").read_bytes() == before
    with pytest.raises(UserError, match=r"keep_images was False, is now True"):
        encode(model=model, data=str(corpus), out=str(undisturbed), keep_images=True)


@pytest.mark.slow
def test_overwrite_keeps_the_old_table_if_no_cluster_answers(undisturbed, model, corpus):
    before = (undisturbed / "manifest.json").read_bytes()
    options = ("--model", model, "--data", corpus, "--out", undisturbed, "--keep-images", "--overwrite")
    done = subprocess.run(
        command(*options, "--address", "127.0.0.1:1"), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, "no Ray cluster answers" in done.stderr) == (1, True)
    assert (undisturbed / "manifest.json").read_bytes() == before


def test_gpus_that_never_become_available_are_an_error(ray_session, model, corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "1")
    options = {"model": model, "data": str(corpus), "out": str(tmp_path / "latents")}
    with pytest.raises(
        UserError, match=r"1 GPUs are needed; the cluster has 0 after 1 s: start nodes that have GPUs"
    ):
        encode(**options, gpus=1)
    with pytest.raises(UserError, match="gpus is 0; allowed: 1 or more"):
        encode(**options, gpus=0)


def test_append_encodes_only_new_keys_as_a_new_generation(undisturbed, ray_session, model, corpus, tmp_path):
    data, out = tmp_path / "data", tmp_path / "latents"
    data.mkdir()
    options = {
        "model": model,
        "data": str(data),
        "out": str(out),
        "max_bad_fraction": 0.05,
        "keep_images": True,
    }
    for name in ("00.parquet", "01.parquet"):
        (data / name).write_bytes((corpus / name).read_bytes())
    first = encode(**options)
    old = {path.name: path.read_bytes() for path in (out / "data").iterdir()}
    assert encode(**options, append=True)["already"], "known rows include the damaged image"
    for file in range(2, FILES):
        (data / f"{file:02d}.parquet").write_bytes((corpus / f"{file:02d}.parquet").read_bytes())
    result = encode(**options, append=True)
    manifest = read_manifest(str(out))
    assert manifest.generation == 2
    assert {name: (out / "data" / name).read_bytes() for name in old} == old
    whole = read_manifest(str(undisturbed))
    assert (result["rows"], result["bad"]) == (whole.rows, whole.result["bad"])
    assert result["fingerprint"] == whole.fingerprint != first["fingerprint"]
    images = pq.read_table(out / "data")["image"]
    assert {cell["bytes"] for cell in images.to_pylist()} <= {
        cell["bytes"] for cell in pq.read_table(corpus)["image"].to_pylist()
    }
    with pytest.raises(UserError, match="keep_images was True, is now False"):
        encode(**{**options, "keep_images": False}, append=True)


@pytest.mark.parametrize("held", [16, 2**21], ids=["in tasks", "in the driver"])
def test_append_recognises_files_by_their_names(
    ray_session, model, folder_of_images, tmp_path, monkeypatch, held
):
    monkeypatch.setattr("lbae.distributed.digests.repeated_rows.HELD_ROWS", held)
    data, out = tmp_path / "images", tmp_path / "latents"
    names = sorted(str(path.relative_to(folder_of_images)) for path in folder_of_images.rglob("*.png"))
    for name in names[1::2]:
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_bytes((folder_of_images / name).read_bytes())
    encode(model=model, data=str(data), out=str(out))
    result = encode(model=model, data=str(folder_of_images), out=str(out), append=True)
    assert rows_of(out) == expected(model, folder_of_images)
    assert result["known_rows"] == read_manifest(str(out)).result["known_rows"] == 20


def test_append_warns_of_rows_of_another_source_that_it_skips(model, tmp_path, caplog):
    cells = [encode_png(np.full((28, 28, 1), value, dtype=np.uint8)) for value in (0, 90)]
    first, second, out = (str(tmp_path / name) for name in ("first", "second", "latents"))
    for source in (first, second):
        image_table(Path(source) / "data" / "part-00000.parquet", cells)
    encode_here(model, first, out)
    options = {"model": model, "out": out, "append": True}
    again = encode(**options, data=first)
    assert (again["already"], again["known_rows"], caplog.messages) == (True, 2, [])
    other = encode(**options, data=second)
    assert (other["already"], other["known_rows"]) == (True, 2)
    (said,) = caplog.messages
    assert said.startswith(
        f"2 of 2 images of {second} are not encoded: {out}, encoded from {first}, has their keys; "
    )


def test_a_second_job_is_refused_while_the_first_runs(model, corpus, tmp_path):
    out = str(tmp_path / "latents")
    with (
        locked(out),
        pytest.raises(UserError, match=rf"latents is being written by process {os.getpid()} on "),
    ):
        encode(model=model, data=str(corpus), out=out)


def test_an_unfinished_table_is_resumed_only_with_the_same_options(ray_session, model, corpus, tmp_path):
    options = {"model": model, "data": str(corpus), "out": str(tmp_path / "latents")}
    (tmp_path / "latents").mkdir()
    (tmp_path / "latents" / ".unfinished").write_text(json.dumps({"kind": "latent table", "latent_dim": 64}))
    with pytest.raises(UserError, match=r"unfinished run with different .*latent_dim was 64, is now 128"):
        encode(**options)
    encode(**options, overwrite=True, max_bad_fraction=0.02)


def command(*arguments: object) -> list[str]:
    """The job, with parts of 50 rows: one per file of the corpus."""
    job = [sys.executable, "-m", "tests.small_parts", "encode"]
    return [*job, *map(str, arguments), "--max-bad-fraction", "0.02"]


@pytest.fixture
def ray_that_knows_s3(s3, monkeypatch) -> Iterator[None]:
    """A local Ray for jobs to join; unlike the test session's Ray, its workers know the S3 server."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    code = (
        "import ray, sys; found = ray.init(address='local', num_cpus=2, include_dashboard=False,"
        " log_to_driver=False);"
        " print(found.address_info['address'], flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    monkeypatch.setenv("RAY_ADDRESS", process.stdout.readline().strip())
    yield
    process.communicate()


def names_in(place: Location) -> list[str]:
    return [name for name, _ in place.files()] if place.exists() else []


def parts_in(names: list[str]) -> int:
    return sum(name.startswith("data/part-") for name in names)


def written(out: Path) -> dict[str, tuple[int, int]]:
    """The table's parts, each with what changes when its file is written again: its inode and its time."""
    found = {path.name: path.stat() for path in (out / "data").glob("part-*")}
    return {name: (facts.st_ino, facts.st_mtime_ns) for name, facts in found.items()}


def kill_when(reached: Callable[[list[str]], bool], out: str, later: float, *options: object) -> bool:
    """Start the job, kill it ``later`` seconds after ``reached`` holds for its files; whether it ran."""
    job = subprocess.Popen(command(*options), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until = time.monotonic() + 120
    while job.poll() is None and time.monotonic() < until and not reached(names_in(resolve(out))):
        time.sleep(0.01)
    time.sleep(later)
    lived = job.poll() is None
    job.kill()
    job.communicate()
    return lived


def kill_repeatedly(out: str, early: int, *options: object) -> int:
    """Kill the job ``early`` times after a few more parts, and three times near its end.

    The last three kills come after all parts (twice) and after the manifest.

    Returns:
        How often the job was still running when it was killed.
    """
    chance, killed = random.Random(0), 0
    late = [lambda names: parts_in(names) == FILES] * 2
    late += [lambda names: "manifest.json" in names]
    for number in range(early + len(late)):
        wanted = min(parts_in(names_in(resolve(out))) + chance.randrange(1, 4), FILES)
        moment = (
            late[number - early]
            if number >= early
            else lambda names, wanted=wanted: parts_in(names) >= wanted
        )
        killed += kill_when(moment, out, chance.random() / 10, *options)
        # The lock stays once, so that one job waits 12 seconds before it takes over a dead job's lock.
        if number or not out.startswith("s3://"):
            resolve(f"{out}.lock").remove()
    return killed


def finish(*options: object) -> dict:
    done = subprocess.run(
        command(*options), cwd=ROOT, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_five_kills_lose_and_duplicate_nothing(undisturbed, model, corpus, tmp_path):
    out = tmp_path / "latents"
    options = ("--model", model, "--data", corpus, "--out", out)
    assert kill_when(lambda names: parts_in(names) >= 3, str(out), 0, *options)
    resolve(f"{out}.lock").remove()
    before = written(out)
    assert 3 <= len(before) < FILES
    assert kill_repeatedly(str(out), 1, *options) >= 3
    assert finish(*options)["fingerprint"] == read_manifest(str(undisturbed)).fingerprint
    assert rows_of(out) == rows_of(undisturbed)
    assert written(out).items() > before.items(), "finished parts are not written again"
    assert {path.name for path in out.iterdir()} == {"data", "quarantine", "manifest.json"}
    assert not [path for path in out.rglob("*") if path.name.startswith(".")]


@pytest.mark.slow
def test_kills_during_append_lose_and_duplicate_nothing(undisturbed, model, corpus, tmp_path):
    data, out, had = tmp_path / "data", tmp_path / "latents", 4
    data.mkdir()
    options = ("--model", model, "--data", data, "--out", out)
    for file in range(FILES):
        if file == had:
            finish(*options)
        (data / f"{file:02d}.parquet").write_bytes((corpus / f"{file:02d}.parquet").read_bytes())
    before, whole = rows_of(out), rows_of(undisturbed)
    old = {path.name: path.read_bytes() for path in (out / "data").iterdir()}
    moments = (
        lambda names: parts_in(names) >= len(old) + 3,
        lambda names: parts_in(names) == FILES,
    )
    killed = []
    for moment in moments:
        killed.append(kill_when(moment, str(out), 0, *options, "--append"))
        resolve(f"{out}.lock").remove()
        found = open_latent_table(str(out))
        assert found.manifest.rows in (len(before), len(whole)), "readers see either the old or the new table"
    assert killed == [True] * 2
    assert finish(*options, "--append")["fingerprint"] == read_manifest(str(undisturbed)).fingerprint
    assert rows_of(out) == whole
    assert {name: (out / "data" / name).read_bytes() for name in old} == old
    assert read_manifest(str(out)).generation == 2
    assert {path.name for path in out.iterdir()} == {"data", "quarantine", "manifest.json"}


@pytest.mark.slow
def test_ten_kills_on_s3_lose_and_duplicate_nothing(undisturbed, s3, ray_that_knows_s3, model, corpus):
    options = ("--model", model, "--data", corpus, "--out", f"{s3}/latents")
    assert kill_repeatedly(f"{s3}/latents", 7, *options) >= 8
    assert finish(*options)["fingerprint"] == read_manifest(str(undisturbed)).fingerprint
    table = open_latent_table(f"{s3}/latents")
    rows = pa.concat_tables(table.read(part) for part in table.parts)
    assert rows.equals(pq.read_table(undisturbed / "data")), "in the same order"
    assert {name.split("/")[0] for name in names_in(resolve(f"{s3}/latents"))} == {
        "data",
        "quarantine",
        "manifest.json",
    }
    assert not resolve(f"{s3}/latents.lock").exists()


@pytest.mark.slow
def test_throttling_by_s3_loses_no_row(undisturbed, s3, monkeypatch, request, model, corpus):
    with refusing_server(monkeypatch) as server:
        server.period = 10  # boto tries five times: one request in 100,000 would be refused each time
        request.getfixturevalue("ray_that_knows_s3")
        result = finish("--model", model, "--data", corpus, "--out", f"{s3}/latents")
        assert server.refused > 10
        assert result["fingerprint"] == read_manifest(str(undisturbed)).fingerprint
        server.period = 0


def test_storage_that_refuses_access_is_named_before_work_starts(s3, monkeypatch, model, corpus):
    options = {"model": model, "data": str(corpus)}
    with pytest.raises(
        LbaeError, match=r"s3://nowhere/latents.lock cannot be written: .*bucket does not exist"
    ):
        encode(**options, out="s3://nowhere/latents")
    with pytest.raises(UserError, match="data s3://nowhere/data does not exist"):
        encode(model=model, data="s3://nowhere/data", out=f"{s3}/latents")
    with refusing_server(monkeypatch) as server:
        server.code, server.status, server.refusals = "InvalidAccessKeyId", "403 Forbidden", 10**6
        with pytest.raises(
            LbaeError, match=r"s3://bucket/latents.lock cannot be written: InvalidAccessKeyId"
        ):
            encode(**options, out="s3://bucket/latents")
        with pytest.raises(LbaeError, match=r"s3://bucket/data cannot be reached: Forbidden"):
            encode(model=model, data="s3://bucket/data", out="s3://bucket/latents")
    with pytest.raises(UserError, match=r"/proc/latents cannot be written: nothing can be created in /proc"):
        encode(**options, out="/proc/latents")


def test_a_file_that_disappears_during_the_job_is_quarantined(
    ray_session, model, folder_of_images, tmp_path, monkeypatch
):
    monkeypatch.setattr("lbae.io.sources.plan.ROWS_PER_SHARD", 4)
    data, out = tmp_path / "images", tmp_path / "latents"
    shutil.copytree(folder_of_images, data)
    planned = plan(str(data))
    gone = planned.shards[-1].files[-1]

    def disappear() -> None:
        while not (out / ".unfinished").exists():  # then the source is planned and none of it is read
            time.sleep(0.001)
        (data / gone).unlink()

    thread = threading.Thread(target=disappear)
    thread.start()
    result = encode(model=model, data=str(data), out=str(out), max_bad_fraction=0.1)
    thread.join()
    assert (result["rows"], result["bad"]) == (planned.rows - 1, 1)
    (row,) = pq.read_table(out / "quarantine").to_pylist()
    assert (row["key"], row["path"]) == (gone, gone)
    assert row["error"].startswith("no bytes: the image is missing")


def test_a_folder_of_text_files_is_refused(model, tmp_path):
    (tmp_path / "words").mkdir()
    for name in ("a.txt", "b.md"):
        (tmp_path / "words" / name).write_text("words")
    with pytest.raises(UserError, match="words holds no images"):
        encode(model=model, data=str(tmp_path / "words"), out=str(tmp_path / "latents"))


@pytest.mark.slow
def test_two_nodes_share_the_work_and_one_finishes_it_if_the_other_dies(undisturbed, model, corpus, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | QUICK_DEATH
    outs = (tmp_path / "shared", tmp_path / "lost")
    command = [
        sys.executable,
        "-m",
        "tests.distributed.encode_on_two_nodes",
        model,
        str(corpus),
        *map(str, outs),
    ]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    assert facts["killed"]
    assert [rows_of(out) for out in outs] == [rows_of(undisturbed)] * 2
    assert len(facts["images_by_node"]) == 2
    assert min(facts["images_by_node"]) > FILES * ROWS / 10
    assert [len(list((out / "data").iterdir())) for out in outs] == [FILES] * 2, "on any number of nodes"


def png_header(side: int) -> bytes:
    data = bytearray(encode_png(np.zeros((4, 4, 1), dtype=np.uint8)))
    data[16:24] = side.to_bytes(4) * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4)
    return bytes(data)


def test_every_kind_of_bad_file_is_quarantined_and_no_good_one(ray_session, model, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    photograph = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 50, 3), dtype=np.uint8))
    photograph.save(folder / "good.jpg")
    photograph.convert("CMYK").save(folder / "cmyk.jpg")
    photograph.resize((1, 1)).save(folder / "one.png")
    Image.fromarray(np.full((40, 40), 40_000, dtype=np.uint16)).save(folder / "deep.png")
    photograph.save(folder / "animated.gif", save_all=True, append_images=[photograph.rotate(90)])
    (folder / "truncated.jpg").write_bytes((folder / "good.jpg").read_bytes()[:600])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("not an image")
    (folder / "bomb.png").write_bytes(png_header(20_000))
    options = {"model": model, "data": str(folder), "out": str(tmp_path / "latents")}
    message = r"4 of 9 images .* could not be decoded.*; the first is bomb.png \(.* pixels.*\), all are in "
    with pytest.raises(LbaeError, match=rf"{message}{options['out']}/quarantine"):
        encode(**options)
    keys = [row[0] for row in rows_of(options["out"])]
    assert keys == ["animated.gif", "cmyk.jpg", "deep.png", "good.jpg", "one.png"]
    quarantine = pq.read_table(tmp_path / "latents" / "quarantine").to_pylist()
    reasons = {row["key"]: row["error"] for row in quarantine}
    assert reasons.keys() == {"bomb.png", "empty.png", "text.jpg", "truncated.jpg"}
    assert reasons["empty.png"] == "no bytes"
    assert "400000000 pixels" in reasons["bomb.png"] or "20000 x 20000" in reasons["bomb.png"]
    assert encode(**options, max_bad_fraction=0.5)["already"]


def test_incompatible_columns_are_named(ray_session, model, tmp_path):
    cell = encode_png(np.zeros((28, 28, 1), dtype=np.uint8))
    for name, label in (("a", 1), ("b", [2.5])):
        image_table(tmp_path / "data" / f"{name}.parquet", [cell], label=[label])
    with pytest.raises(
        UserError, match=r"columns that do not fit together: 'label' is int64 in a.parquet and"
    ):
        encode(model=model, data=str(tmp_path / "data"), out=str(tmp_path / "latents"))


def test_the_result_counts_what_was_read_and_what_was_skipped(ray_session, model, tmp_path):
    data, out = tmp_path / "data", str(tmp_path / "latents")
    image = encode_png(np.zeros((28, 28, 1), dtype=np.uint8))
    (tmp_path / "elsewhere").mkdir()
    for place in (data / "train" / "cat", data / "val" / "dog", tmp_path / "elsewhere"):
        place.mkdir(parents=True, exist_ok=True)
        for name, content in (("0.png", image), ("0.txt", b"a cat"), ("0.json", b"{}"), (".DS_Store", b"")):
            (place / name).write_bytes(content)
        Path(os.fsdecode(os.fsencode(place / "caf") + b"\xe9.png")).write_bytes(image)
    (data / "val" / "linked").symlink_to(tmp_path / "elsewhere")
    (data / "LICENSE").write_text("CC0")
    result = encode(model=model, data=str(data), out=out)
    assert (result["rows"], result["bad"], result["columns"]) == (6, 0, ["split", "label"])
    assert result["skipped"] == {".json": 3, ".txt": 3, "hidden": 3, "no suffix": 1}
    assert result["images_per_second"] > 0
    assert read_manifest(out).result["skipped"] == result["skipped"]
    found = {row["key"]: (row["split"], row["label"]) for row in pq.read_table(f"{out}/data").to_pylist()}
    assert found["train/cat/0.png"] == ("train", "cat")
    assert found[r"val/linked/caf\xe9.png"] == ("val", "linked")
    again = encode(model=model, data=str(data), out=out, append=True)
    assert (again["already"], again["known_rows"]) == (True, 6)
    with pytest.raises(
        UserError, match=r"the output .*/val/latents lies in the data .*; choose another --out"
    ):
        encode(model=model, data=str(data), out=str(data / "val" / "latents"))


def test_partition_folders_become_columns_and_append_fills_them(ray_session, model, tmp_path):
    data, options = tmp_path / "data", {"model": model, "out": str(tmp_path / "latents")}
    cells = [encode_png(np.full((28, 28, 1), value, dtype=np.uint8)) for value in (0, 90)]
    image_table(data / "label=cat" / "year=2024" / "a.parquet", cells)
    encode(data=str(data), **options)
    image_table(data / "label=dog" / "year=2025" / "a.parquet", cells)
    encode(data=str(data), append=True, **options)
    table = pq.read_table(tmp_path / "latents" / "data", partitioning=None)
    assert table["label"].to_pylist() == ["cat", "cat", "dog", "dog"]
    assert table["year"].to_pylist() == [2024, 2024, 2025, 2025]


@pytest.mark.parametrize("text", [b"cat", b"", b"99999999999999999999"])
def test_an_invalid_class_found_while_encoding_is_named(ray_session, model, tmp_path, text):
    members = {"0.png": encode_png(np.zeros((28, 28, 1), dtype=np.uint8)), "0.cls": text}
    write_tar(tmp_path / "a.tar", members)
    with pytest.raises(UserError, match=r"member 0.cls of .*a.tar holds '.*'; allowed: a 64-bit integer"):
        encode(model=model, data=str(tmp_path / "a.tar"), out=str(tmp_path / "latents"))


def test_append_refuses_images_with_other_columns(ray_session, model, tmp_path):
    cells = [encode_png(np.full((28, 28, 1), value, dtype=np.uint8)) for value in (0, 90)]
    data, options = (
        tmp_path / "data",
        {"model": model, "data": str(tmp_path / "data"), "out": str(tmp_path / "latents")},
    )
    image_table(data / "a.parquet", cells, label=[1, 2], name=["x", "y"])
    encode(**options)
    image_table(data / "b.parquet", cells, label=pa.array([3, 4], pa.int8()))
    encode(**options, append=True)
    table = pq.read_table(tmp_path / "latents" / "data")
    assert table["label"].to_pylist() == [1, 2, 3, 4]
    assert table["name"].to_pylist() == ["x", "y", None, None]
    (data / "a.parquet").unlink()
    image_table(data / "c.parquet", cells, label=[5, 6], size=[7, 8])
    with pytest.raises(
        UserError, match=r"other columns \(label int64, size int64\) than .*latents \(label int64, name str"
    ):
        encode(**options, append=True)


def test_a_resumed_table_keeps_its_precision_and_counts_every_row(ray_session, model, tmp_path, monkeypatch):
    data, out = tmp_path / "data.parquet", str(tmp_path / "latents")
    digits = pq.read_table(SAMPLE).slice(0, 600)
    pq.write_table(digits, data)
    monkeypatch.setattr("lbae.io.sources.plan.ROWS_PER_SHARD", 300)
    other = "float32" if best_precision(torch.device("cpu")) == "bfloat16" else "bfloat16"
    monkeypatch.setattr(latent_parts, "_LEAST_ROWS", 300)
    codec, images, fingerprint = load_model(model, other), plan(str(data)), read_manifest(model).fingerprint
    parents = {"model": fingerprint, "data": images.fingerprint}
    config = {"latent_dim": 128, "keep_images": False}
    Output(out, "latent table", parents=parents, config=config, resume_key=PART_LIMITS).begin()
    plans = latent_parts.plan_latent_parts(images.shards, keep_images=False)
    write_part(out, plans[0], codec, fingerprint)
    before = written(Path(out))
    result = encode(model=model, data=str(data), out=out)
    assert (result["precision"], result["rows"], sum(result["images_by_node"])) == (other, 600, 300)
    table = open_latent_table(out)
    assert table.parts == [plan.data for plan in plans]
    assert written(Path(out)).items() > before.items(), "a finished part is not written again"
    rows = pa.concat_tables(table.read(part) for part in table.parts)
    assert table.digest() == part_digest(rows), "parts are encoded in batches of 256 rows"
    assert rows["key"].to_pylist() == [f"data.parquet:{row}" for row in range(600)]


def test_shards_do_not_depend_on_excluded_rows(corpus):
    shards = plan(str(corpus)).shards
    known = np.arange(sum(shard.rows for shard in shards)) < shards[0].rows + 10
    rest = leaving_out(shards, np.packbits(known, bitorder="little"))
    assert [shard.index for shard in rest] == list(range(1, FILES))
    assert read_shard(rest[0])["key"].to_pylist() == [f"01.parquet:{row}" for row in range(10, ROWS)]
    assert sum(shard.rows_to_read for shard in rest) == (FILES - 1) * ROWS - 10
