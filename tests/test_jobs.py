"""The jobs as a user runs them: output, exit codes, mistakes."""

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lbae.io.artifacts.bundle_artifact import load_bundle
from lbae.io.artifacts.manifest import read_manifest
from lbae.io.images import square_grid
from lbae.io.sources.decode import decode_every
from lbae.io.sources.plan import plan
from lbae.io.sources.source import read_shard
from tests.bundles import untrained_bundle
from tests.conftest import Outcome, image_table, picture_size, run_job, service

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def picture(pipeline, tmp_path_factory) -> Path:
    """An image file with one digit."""
    path = tmp_path_factory.mktemp("picture") / "digit.png"
    path.write_bytes(read_shard(plan(str(pipeline.data)).shards[0])["bytes"][0].as_py())
    return path


def result_of(outcome) -> dict:
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out.strip().splitlines()[-1])


def test_sample_writes_a_picture(job, pipeline, tmp_path):
    facts = result_of(
        job("sample", "--bundle", pipeline.bundle, "--num", 9, "--seed", 4, "--out", tmp_path / "s.png")
    )
    assert (facts["num"], facts["seed"]) == (9, 4)
    assert picture_size(tmp_path / "s.png") == (176, 176)


def test_temperature_changes_what_is_drawn_in_pictures_and_tables_alike(job, pipeline, tmp_path):
    asked = ("sample", "--bundle", pipeline.bundle, "--num", 4)
    for name, options in (("warm", ()), ("cold", ("--temperature", 0.3))):
        result_of(job(*asked, *options, "--out", tmp_path / f"{name}.png"))
    assert (tmp_path / "warm.png").read_bytes() != (tmp_path / "cold.png").read_bytes()
    table = tmp_path / "table"
    assert result_of(job(*asked, "--temperature", 0.3, "--out", table))["temperature"] == 0.3
    config = load_bundle(str(pipeline.bundle), "cpu").codec.config
    drawn = next(decode_every(plan(str(table)), config)).images
    with Image.open(tmp_path / "cold.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), square_grid(drawn)[..., 0])


def test_a_finished_table_of_samples_is_not_drawn_again(job, pipeline, tmp_path):
    asked = ("sample", "--bundle", pipeline.bundle, "--seed", 0, "--out", tmp_path / "samples")
    first = result_of(job(*asked, "--num", 10))
    assert result_of(job(*asked, "--num", 10)) == {**first, "already": True}
    refused = job(*asked, "--num", 8)
    assert (refused.code, "num was 10, is now 8" in refused.error) == (2, True)


@pytest.mark.slow
def test_export_writes_programs_that_run_without_this_package(job, pipeline, tmp_path):
    result_of(job("export", "--model", pipeline.model, "--out", tmp_path / "e"))
    code = (
        "import sys, torch; e, d = (torch.export.load(f'{sys.argv[1]}/{n}.pt2').module() for n in"
        " ('encoder', 'decoder'));"
        "z = e(torch.rand(5, 1, 32, 32)); assert 'lbae' not in sys.modules; print(z.abs().min().item(),"
        " *d(z).shape)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "e")], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1.0", "5", "1", "32", "32"]


def test_losses_plots_several_models_in_one_figure(job, pipeline, tmp_path):
    other = shutil.copytree(pipeline.model, tmp_path / "other")
    facts = result_of(
        job("losses", "--models", pipeline.model, "--models", other, "--out", tmp_path / "l.png")
    )
    assert list(facts["last"]) == [f"bernoulli, N = 128, {model}" for model in (pipeline.model, other)]
    assert picture_size(tmp_path / "l.png")[0] > 500


def test_sample_gives_images_with_attributes(job, pipeline, tmp_path):
    wanted = ("--given", "label=3", "--given-not", "label=5")
    facts = result_of(
        job("sample", "--bundle", pipeline.bundle, "--num", 4, *wanted, "--out", tmp_path / "s.png")
    )
    assert facts["given"] == {"label=3": True, "label=5": False}
    assert 0 < facts["acceptance"] < 0.5


def test_reconstruct_writes_originals_above_reconstructions(job, pipeline, tmp_path):
    out = tmp_path / "r.png"
    facts = result_of(
        job("reconstruct", "--bundle", pipeline.bundle, "--data", pipeline.data, "--num", 20, "--out", out)
    )
    assert (facts["images"], facts["bad"], facts["source_images"]) == (20, 0, 600)
    assert 0 < facts["mse"] < 0.2
    assert picture_size(out) == (16 * 58 + 2, 4 * 58 + 2)
    table = tmp_path / "table"
    facts = result_of(
        job("reconstruct", "--bundle", pipeline.bundle, "--data", pipeline.data, "--num", 20, "--out", table)
    )
    assert facts["rows"] == plan(str(table)).rows == 20


def test_reconstruct_names_the_first_bad_image_and_reads_one_kind_of_a_mixed_folder(job, pipeline, tmp_path):
    cells = pq.read_table(pipeline.data / "b.parquet").slice(0, 3)["image"].to_pylist()
    mixed = tmp_path / "mixed"
    image_table(mixed / "a.parquet", [cells[0]["bytes"], b"no image", cells[1]["bytes"]])
    (mixed / "loose.png").write_bytes(cells[2]["bytes"])
    places = ("--data", mixed, "--out", tmp_path / "r.png")
    asked = ("reconstruct", "--bundle", pipeline.bundle, *places)
    assert "--kind table or files" in job(*asked).error
    done = job(*asked, "--kind", "table")
    assert (result_of(done)["images"], result_of(done)["bad"]) == (2, 1)
    assert "1 images of" in done.err
    assert "the first is a.parquet:1 (" in done.err


def test_interpolate_writes_a_strip(job, pipeline, picture, tmp_path):
    ends = ("--source", picture, "--target", picture)
    result_of(
        job("interpolate", "--bundle", pipeline.bundle, *ends, "--steps", 5, "--out", tmp_path / "i.png")
    )
    with Image.open(tmp_path / "i.png") as image:
        strip = np.asarray(image)
    assert strip.shape == (60, 5 * 58 + 2)
    np.testing.assert_array_equal(strip[:, :60], strip[:, -60:])


def test_interpolate_through_images_as_an_animation(job, pipeline, picture, tmp_path):
    path = (
        "--source",
        picture,
        "--via",
        ROOT / "docs/images/one.png",
        "--via",
        ROOT / "docs/images/seven.png",
        "--target",
        picture,
    )
    facts = result_of(
        job("interpolate", "--bundle", pipeline.bundle, *path, "--steps", 4, "--out", tmp_path / "i.webp")
    )
    assert facts["frames"] == 10
    with Image.open(tmp_path / "i.webp") as image:
        assert (image.size, image.n_frames) == ((112, 112), 18)
        first = np.asarray(image.convert("L"))
        image.seek(9)
        np.testing.assert_array_equal(np.asarray(image.convert("L")), first)


@pytest.mark.parametrize("method", ["bits", "exchange"])
def test_edit_writes_before_and_after(job, pipeline, picture, tmp_path, method):
    change = ("--set", "label=7", "--unset", "label=1", "--strength", 0.8, "--method", method)
    facts = result_of(
        job("edit", "--bundle", pipeline.bundle, "--image", picture, *change, "--out", tmp_path / "e.png")
    )
    assert facts["method"] == method
    assert 0 < facts["bits_changed"] <= facts["latent_dim"] == 128
    assert picture_size(tmp_path / "e.png") == (118, 60)


def test_edit_until_a_confidence_says_the_strength(job, pipeline, picture, tmp_path):
    change = ("--set", "label=7", "--until", 0.9, "--out", tmp_path / "e.png")
    facts = result_of(job("edit", "--bundle", pipeline.bundle, "--image", picture, *change))
    assert facts["strength"] in np.arange(0, 2.25, 0.25)
    assert 0 <= facts["confidence"] <= 1
    assert (facts["bits_changed"] == 0) == (facts["strength"] == 0)
    assert picture_size(tmp_path / "e.png") == (118, 60)


def test_vary_draws_rows_of_variations_that_a_seed_repeats(job, pipeline, picture, tmp_path):
    images = ("--image", picture, "--image", ROOT / "docs/images/seven.png")
    asked = ("vary", "--bundle", pipeline.bundle, *images, "--num", 5, "--seed", 3)
    facts = result_of(job(*asked, "--strength", 0.4, "--out", tmp_path / "v.png"))
    assert 0 < facts["bits_changed"] < facts["latent_dim"]
    assert picture_size(tmp_path / "v.png") == (6 * 58 + 2, 2 * 58 + 2)
    result_of(job(*asked, "--strength", 0.4, "--out", tmp_path / "again.png"))
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "v.png").read_bytes()
    same = result_of(job(*asked, "--strength", 0, "--out", tmp_path / "same.png"))
    assert same["bits_changed"] == 0


def test_show_describes(job, pipeline):
    facts = result_of(job("show", pipeline.bundle))
    assert facts["kind"] == "bundle"
    assert set(facts["parents"]) == {"model", "latents", "moments"}
    assert list(facts["leading_bits"]) == [f"label={i}" for i in range(10)]
    assert {len(rows) for rows in facts["leading_bits"].values()} == {5}


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "train",
            "--preset demo --data {data} --out {tmp}/m --epohcs 3",
            "unknown option --epohcs; did you mean --epochs?",
        ),
        ("train", "--preset demo --data {data}", "train needs --out; --help lists"),
        ("train", "--preset dmo --data {data} --out {tmp}/m", "unknown preset 'dmo'; did you mean 'demo'"),
        ("train", "--preset demo --data {tmp}/none --out {tmp}/m", "does not exist"),
        ("train", "--preset demo --data {data} --out {bundle}", "already holds a bundle"),
        (
            "encode",
            "--model {moments} --data {data} --out {tmp}/l",
            "is of kind moment sums; allowed here: model",
        ),
        ("encode", "--model {model} --data {tmp} --out {tmp}/l", "holds no images"),
        ("encode", "--model {tmp} --data {data} --out {tmp}/l", "is not a finished artifact"),
        (
            "reduce",
            "--latents {latents} --out {tmp}/m --attributes labl",
            "unknown attribute 'labl'; did you mean 'label'",
        ),
        (
            "sample",
            "--bundle {bundle} --num zero --out {tmp}/s.png",
            "--num is 'zero'; allowed: a whole number",
        ),
        (
            "sample",
            "--bundle {bundle} --given label=10 --out {tmp}/table",
            "unknown attribute 'label=10'; did you mean 'label=1'",
        ),
        ("sample", "--bundle {bundle} --num 0 --out {tmp}/s.png", "num is 0"),
        (
            "sample",
            "--bundle {bundle} --num 1000000000000 --out {tmp}/s.png",
            "allowed: 10,000 in one picture",
        ),
        (
            "vary",
            "--bundle {bundle} --image docs/images/one.png --num 10001 --out {tmp}/v.png",
            "num is 10,001 for each of 1 images; allowed: 10,000 in one picture",
        ),
        (
            "sample",
            "--bundle {bundle} --given label=10 --out {tmp}/s.png",
            "unknown attribute 'label=10'; did you mean 'label=1'",
        ),
        (
            "sample",
            "--bundle {bundle} --given label=1 --given-not label=1 --out {tmp}/s.png",
            "'label=1' is both given and given-not",
        ),
        ("sample", "--bundle {tmp}/none --out {tmp}/s.png", "it does not exist"),
        (
            "edit",
            "--bundle {bundle} --image {png} --set label=77 --out {tmp}/e.png",
            "unknown attribute 'label=77'.*known: label=0",
        ),
        (
            "edit",
            "--bundle {bundle} --image {png} --set label=7 --strength 2.5 --out {tmp}/e.png",
            "strength is 2.5; allowed: 0",
        ),
        (
            "edit",
            "--bundle {bundle} --image {png} --set label=7 --until 0.9 --strength 1 --out {tmp}/e.png",
            "leave --strength and --method out, or --until",
        ),
        (
            "edit",
            "--bundle {bundle} --image {png} --set label=7 --until 1 --out {tmp}/e.png",
            "until is 1.0; allowed: above 0, below 1",
        ),
        (
            "edit",
            "--bundle {bundle} --image {tmp} --set label=7 --out {tmp}/e.png",
            "cannot be read as an image",
        ),
        (
            "edit",
            "--bundle {bundle} --image {png} --set label=7 --method bit --out {tmp}/e.png",
            "--method is 'bit'; allowed: exchange, bits",
        ),
        (
            "interpolate",
            "--bundle {bundle} --source {png} --target {png} --steps 1 --out {tmp}/i.png",
            "steps is 1",
        ),
        (
            "interpolate",
            "--bundle {bundle} --source {png} --target {png} --out {tmp}/i.gif",
            "ends in .png or .webp",
        ),
        (
            "vary",
            "--bundle {bundle} --image {png} --strength 1.5 --out {tmp}/v.png",
            "count is 8 and strength 1.5; allowed: count from 1, strength from 0",
        ),
        ("vary", "--bundle {bundle} --image {png} --out {tmp}/v.webp", "pictures are written as PNG"),
        (
            "sample",
            "--bundle {bundle} --temperature 3 --out {tmp}/s.png",
            "temperature is 3.0; allowed: 0 .least variety. to 2",
        ),
        (
            "evaluate",
            "--bundle {bundle} --data {data} --temperatures -1 --out {tmp}/e",
            "temperature is -1.0; allowed",
        ),
        ("show", "{tmp}", "is not a finished artifact"),
        ("serve", "--bundle {model}", "is of kind model; allowed here: bundle"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_two(pipeline, picture, tmp_path, name, arguments, message):
    places = {
        "data": pipeline.data,
        "model": pipeline.model,
        "latents": pipeline.latents,
        "moments": pipeline.moments,
    }
    filled = arguments.format(**places, bundle=pipeline.bundle, png=picture, tmp=tmp_path).split()
    outcome = run_job(name, *filled)
    assert (outcome.code, outcome.out) == (2, "")
    assert re.fullmatch(f"error: .*{message}.*\n", outcome.err), outcome.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("train", "--preset demo --data {data} --out {data}"),
        ("ingest", "--source {data} --out {data}"),
        ("encode", "--model {model} --data {data} --out {model}"),
        ("reduce", "--latents {latents} --out {latents}"),
        ("fit", "--model {model} --latents {latents} --moments {moments} --out {moments}"),
        ("sample", "--bundle {bundle} --num 1 --out {bundle}"),
        ("reconstruct", "--bundle {bundle} --data {data} --out {bundle}"),
        ("evaluate", "--bundle {bundle} --data {data} --latents {latents} --out {latents}"),
        ("export", "--model {model} --out {model}"),
        ("moments", "add {moments} {moments} --force --out {moments}"),
    ],
)
def test_no_job_deletes_its_input(job, pipeline, name, arguments):
    places = {
        "data": pipeline.data,
        "model": pipeline.model,
        "latents": pipeline.latents,
        "moments": pipeline.moments,
    }
    before = [sorted(folder.rglob("*")) for folder in (pipeline.data, pipeline.out)]
    outcome = job(name, *arguments.format(**places, bundle=pipeline.bundle).split(), "--overwrite")
    assert (outcome.code, outcome.out) == (2, "")
    assert re.search("the input .* lies in the output|the output .* lies in the data", outcome.error)
    assert [sorted(folder.rglob("*")) for folder in (pipeline.data, pipeline.out)] == before


def test_a_process_with_a_mistake_exits_with_code_two():
    command = [sys.executable, str(ROOT / "jobs" / "sample.py"), "--bundle", "nowhere", "--out", "s.png"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: there is no artifact at nowhere: it does not exist\n"


@pytest.mark.parametrize("out", ["/proc/none/s.png", "/proc/none/table"])
def test_an_output_that_cannot_be_written_is_one_line_and_exit_code_two(job, pipeline, out):
    outcome = job("sample", "--bundle", pipeline.bundle, "--num", "1", "--out", out)
    assert outcome.code == 2
    assert re.fullmatch(
        rf"error: .*{out} cannot be written: nothing can be created in /proc .*\n", outcome.err
    )


def other_serve(*arguments: object) -> Outcome:
    """Run ``jobs/serve.py`` in another process, because a process remembers the first Ray Serve it finds."""
    command = [sys.executable, str(ROOT / "jobs" / "serve.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.mark.slow
def test_a_service_follows_a_file_until_it_is_stopped(pipeline, tmp_path):
    other, pointer = untrained_bundle(pipeline, tmp_path), tmp_path / "current"
    pointer.write_text(pipeline.bundle)
    with service("--follow", str(pointer), "--port", "18129") as facts:
        url = facts["url"]
        assert url == "http://127.0.0.1:18129"
        assert httpx.get(f"{url}/readyz").headers["x-bundle"] == facts["bundle"]
        answers = [httpx.post(f"{url}/v1/sample", json={"n": 4, "seed": 3}, timeout=60) for _ in range(2)]
        assert answers[0].headers["content-type"] == "image/png"
        assert answers[0].content == answers[1].content
        assert httpx.post(f"{url}/v1/sample", json={"n": -1}).status_code == 422
        for options, why in (
            ((), f"this service follows {pointer}"),
            (("--replicas", 2), "only its bundle can be changed"),
            (("--allow-host", "lbae.example.org"), "only its bundle can be changed"),
        ):
            refused = other_serve("--bundle", other, *options)
            assert (refused.code, why in refused.error) == (2, True)
        pointer.write_text(f"{tmp_path}/none")
        time.sleep(3)
        assert httpx.get(f"{url}/readyz").headers["x-bundle"] == facts["bundle"]
        pointer.write_text(other)
        for _ in range(60):
            time.sleep(1)
            if (now := httpx.get(f"{url}/readyz").headers["x-bundle"]) != facts["bundle"]:
                break
        assert now == read_manifest(other).fingerprint
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{url}/readyz", timeout=5)
