"""Artifacts pushed to the Hub and read from it, with huggingface_hub's own client and a local server."""

import io
import json
import re
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pytest
from huggingface_hub import ModelCard
from PIL import Image

import lbae
from lbae.errors import LbaeError, UserError
from lbae.io.artifacts import image_table
from lbae.io.artifacts.bundle_artifact import read_pointer
from lbae.io.artifacts.describe import describe
from lbae.io.artifacts.hub_repository import commit_artifact, find_repository
from lbae.io.artifacts.latent_table import open_latent_table
from lbae.io.artifacts.manifest import read_manifest
from lbae.io.artifacts.model_artifact import read_network
from lbae.io.artifacts.output import Output
from lbae.io.images import encode_png
from lbae.io.sources.plan import plan
from lbae.io.sources.source import read_shard
from lbae.jobs.use.push import push
from tests.conftest import write_latents
from tests.hub_server import Hub, Repository

GOLDEN = Path(__file__).parent.parent / "golden" / "v1"
BUNDLE, MODEL, LATENTS = (str(GOLDEN / name) for name in ("bundle", "model", "latents"))
FACES = "hf://models/some/faces"
# huggingface_hub's upload of large files
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")


def same_bundle(uri: str) -> bool:
    found, wanted = (lbae.load_bundle(one, "cpu") for one in (uri, BUNDLE))
    assert found.fingerprint == wanted.fingerprint
    return np.array_equal(found.sample(4, seed=1), wanted.sample(4, seed=1))


def downloads(hub: Hub) -> list[str]:
    return [request for request in hub.requests if "/resolve/" in request]


def test_a_pushed_bundle_is_loaded_by_revision_and_downloaded_once(hub):
    first = push(BUNDLE, FACES)
    assert first["out"] == FACES
    assert hub.objects, "no file went by LFS"
    commits = [request for request in hub.requests if "/commit/" in request]
    assert len(commits) == 1
    repository = hub.repositories["models/some/faces"]
    assert f"{FACES}@{repository.find('main')}" == first["version"]
    assert same_bundle(FACES)
    assert same_bundle("hf://some/faces")
    hub.requests.clear()
    assert same_bundle(FACES)
    assert downloads(hub) == []
    hub.requests.clear()
    assert same_bundle(first["version"])
    assert hub.requests == []
    repository.tags["v1"] = repository.find("main")
    repository.commit({})
    assert same_bundle(f"{FACES}@v1")
    with pytest.raises(UserError, match=f"{FACES}@[0-9a-f]+ has no file manifest.json"):
        lbae.load_bundle(FACES)


def test_an_artifact_below_a_repository_is_found(hub):
    files = {f"runs/bundle/{path.name}": path.read_bytes() for path in Path(BUNDLE).iterdir()}
    hub.repositories["models/some/runs"] = Repository()
    hub.repositories["models/some/runs"].commit(files)
    assert same_bundle("hf://some/runs/runs/bundle")


def test_models_and_tables_make_the_round_trip(hub, tmp_path):
    push(MODEL, "hf://some/encoder")
    wanted, config, manifest = read_network(MODEL)
    found, *rest = read_network("hf://some/encoder@main")
    assert rest == [config, manifest]
    for name, value in wanted.state_dict().items():
        assert (found.state_dict()[name] == value).all()
    assert describe("hf://some/encoder") == describe(MODEL)

    hub.requests.clear()
    push(LATENTS, "hf://datasets/some/codes")
    table = open_latent_table("hf://datasets/some/codes")
    assert table.read(table.parts[0]).equals(open_latent_table(LATENTS).read(table.parts[0]))
    assert describe(table.uri) == describe(LATENTS)
    assert sum("parquet" in request for request in downloads(hub)) == 2  # HEAD and GET


def test_a_pushed_image_table_is_a_source_of_images(hub, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), dtype=np.uint8)
    out = str(tmp_path / "images")
    output = Output(out, image_table.KIND, parents={}, config={})
    image_table.publish_images(output, [image_table.write_part(out, 0, 0, images)], {})
    push(out, "hf://datasets/some/images")
    source = plan("hf://datasets/some/images")
    assert [shard.files for shard in source.shards] == [("data/part-00000.parquet",)]
    (rows,) = (read_shard(shard).to_pylist() for shard in source.shards)
    assert [row["bytes"] for row in rows] == [encode_png(image) for image in images]


def test_the_same_push_does_nothing_and_a_new_version_replaces_the_files(hub, tmp_path):
    codes, target = (
        np.where(np.random.default_rng(0).random((40, 11)) < 0.5, 1, -1),
        "hf://datasets/some/codes",
    )
    first = push(write_latents(tmp_path / "a", codes.astype(np.int8)), target)
    assert push(str(tmp_path / "a"), target) == {
        **{name: first[name] for name in ("out", "kind", "fingerprint", "version")},
        "already": True,
    }
    repository = hub.repositories["datasets/some/codes"]
    repository.commit({**repository.files, "LICENSE": b"mine"})
    second = push(write_latents(tmp_path / "b", codes[:20].astype(np.int8), parts=1), target)
    assert len(repository.commits) == 4  # the first is the Hub's own
    assert sorted(repository.files) == [
        ".gitattributes",
        "LICENSE",
        "README.md",
        "data/part-00000.parquet",
        "manifest.json",
    ]
    assert (read_manifest(first["version"]).rows, read_manifest(second["version"]).rows) == (40, 20)
    push(str(tmp_path / "b"), target, license="cc-by-4.0")
    assert len(repository.commits) == 5
    assert ModelCard(repository.files["README.md"].decode()).data.license == "cc-by-4.0"


def test_an_artifact_on_another_storage_is_pushed(hub):
    store = fsspec.filesystem("memory")
    for path in Path(BUNDLE).iterdir():
        store.pipe(f"/hub/bundle/{path.name}", path.read_bytes())
    push("memory://hub/bundle", FACES)
    assert same_bundle(FACES)
    assert push(FACES, "hf://some/copy")["fingerprint"] == read_manifest(FACES).fingerprint


def evaluation(folder: Path, bundle: str) -> str:
    """A small evaluation, as ``evaluate`` publishes it."""
    report = {
        "protocol": "ours",
        "version": 3,
        "features": "inception",
        "seed": 7,
        "names": {"frechet": "FID", "kernel": "KID"},
        "images": {"test images": 10},
        "distances": {"mixture": {"test images": {"frechet": 12.345, "kernel": 0.01}}},
        "nearest": {},
        "reconstructions": {"mse": 0.01, "psnr_db": 20.0},
        "versions": {"lbae": "0.1.0"},
        "hardware": {"device": "cpu"},
    }
    (folder / "report.json").write_text(json.dumps(report))
    manifest = {"kind": "evaluation", "fingerprint": "e1", "parents": {"bundle": bundle}, "config": {}}
    manifest |= {"rows": 10, "files": ["report.json"], "format_version": 1}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return str(folder)


def test_the_card_tells_numbers_licence_and_how_to_load(hub, tmp_path, monkeypatch):
    measured = evaluation(tmp_path, read_manifest(BUNDLE).fingerprint)
    push(BUNDLE, FACES, evaluation=measured, license="apache-2.0", dataset=("ylecun/mnist",))
    files = hub.repositories["models/some/faces"].files
    card = ModelCard(files["README.md"].decode())
    assert card.data.to_dict() == {
        "datasets": ["ylecun/mnist"],
        "library_name": "lbae",
        "license": "apache-2.0",
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["lbae", "bundle"],
    }
    for line in (
        "| mixture | 12.35 | 0.01 |",
        "| peak signal-to-noise ratio, dB | 20.0 |",
        "| protocol | ours |",
        "| seed | 7 |",
    ):
        assert line in card.text, line
    with Image.open(io.BytesIO(files["samples.png"])) as picture:
        assert picture.size[0] > 100
    (code,) = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    assert len([line for line in code.splitlines() if line]) == 5
    monkeypatch.chdir(tmp_path)
    exec(code, {"__name__": "card"})
    with Image.open(tmp_path / "sample.png") as picture:
        assert picture.size == (16, 16)


@pytest.mark.parametrize("source", [MODEL, LATENTS])
def test_what_a_card_says_about_loading_runs(hub, source):
    kind = "datasets" if source == LATENTS else "models"
    push(source, f"hf://{kind}/some/thing")
    text = hub.repositories[f"{kind}/some/thing"].files["README.md"].decode()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, np.ndarray] = {"__name__": "card"}
    exec(code, names)
    if source == LATENTS:
        table = open_latent_table(source)
        packed = np.stack(
            [np.frombuffer(row, np.uint8) for row in table.read(table.parts[0])["latent"].to_pylist()]
        )
        np.testing.assert_array_equal(np.packbits(names["bits"], axis=1, bitorder="little"), packed)
        assert "data/*.parquet" in text
    else:
        assert names["images"].shape == (1, 16, 16, 1)


def test_an_evaluation_of_another_bundle_is_refused_before_anything_is_created(hub, tmp_path):
    with pytest.raises(UserError, match="is of a bundle with the fingerprint other; this bundle has 9558"):
        push(BUNDLE, FACES, evaluation=evaluation(tmp_path, "other"))
    assert hub.repositories == {}


def test_a_column_name_cannot_end_a_table_of_the_card(hub, tmp_path):
    shutil.copytree(BUNDLE, tmp_path / "bundle")
    place = tmp_path / "bundle" / "manifest.json"
    manifest = json.loads(place.read_text())
    manifest["result"]["attributes"] = ["a|b\n\n# <script>`x`"]
    place.write_text(json.dumps(manifest))
    push(str(tmp_path / "bundle"), FACES)
    text = hub.repositories["models/some/faces"].files["README.md"].decode()
    assert "| attributes | `a/b # <script>'x'` |" in text


def test_a_repository_of_something_else_is_not_touched(hub):
    push(MODEL, "hf://some/encoder")
    with pytest.raises(UserError, match="holds a model; push the bundle to another repository"):
        push(BUNDLE, "hf://some/encoder")
    hub.repositories["models/some/bert"] = Repository()
    hub.repositories["models/some/bert"].commit({"config.json": b"{}", "README.md": b"BERT"})
    with pytest.raises(UserError, match=r"holds files that lbae did not push, such as config\.json"):
        push(BUNDLE, "hf://some/bert")
    assert hub.repositories["models/some/bert"].files["README.md"] == b"BERT"


def test_private_is_private(hub):
    push(BUNDLE, FACES, private=True)
    assert hub.repositories["models/some/faces"].private
    push(MODEL, "hf://some/open")
    with pytest.raises(UserError, match="hf://some/open is public; make it private in its settings"):
        push(MODEL, "hf://some/open", private=True)


def test_of_two_pushes_at_a_time_one_is_refused(hub):
    push(BUNDLE, FACES)
    seen = find_repository(FACES, "bundle", False)
    push(BUNDLE, FACES, license="mit")
    with pytest.raises(LbaeError, match=r"cannot be written: it has changed meanwhile; push again"):
        commit_artifact(seen, BUNDLE, read_manifest(BUNDLE), {"README.md": b"other"}, False)
    assert b"license: mit" in hub.repositories["models/some/faces"].files["README.md"]


def test_a_pointer_names_a_commit_of_the_hub_only(hub, tmp_path):
    pointer, version = tmp_path / "current", push(BUNDLE, FACES)["version"]
    pointer.write_text(f"{version}\n")
    assert read_pointer(str(pointer)) == version
    for named in (FACES, f"{FACES}@main", f"simplecache::{version}"):
        pointer.write_text(named)
        with pytest.raises(UserError, match="or a commit of the Hugging Face Hub"):
            read_pointer(str(pointer))
    hub.repositories["models/some/faces"].commit({"current": version.encode()})
    with pytest.raises(UserError, match="unless that is http, https or hf"):
        read_pointer(f"{FACES}/current")
