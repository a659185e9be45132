"""What is said when the Hub refuses, lacks what was asked for, or does not answer."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants

import lbae
from lbae.errors import TransientStorageError, UserError
from lbae.jobs.use.push import push
from tests.conftest import run_job
from tests.hub_server import READER, WRITER, Repository

GOLDEN = Path(__file__).parent.parent / "golden" / "v1"
BUNDLE, LATENTS = str(GOLDEN / "bundle"), str(GOLDEN / "latents")
FACES = "hf://models/some/faces"
# huggingface_hub's upload of large files
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")


def is_loaded(uri: str) -> bool:
    return np.array_equal(
        lbae.load_bundle(uri, "cpu").sample(2, 0), lbae.load_bundle(BUNDLE, "cpu").sample(2, 0)
    )


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (BUNDLE, "hf://datasets/a/b", "a bundle cannot be pushed to .*allowed: hf://models/USER/NAME"),
        (LATENTS, "hf://a/b", "a latent table cannot be pushed to .*allowed: hf://datasets/USER/NAME"),
        (BUNDLE, "hf://models/a/b@v1", "allowed: hf://models/USER/NAME"),
        (BUNDLE, "hf://models/a/b/c", "allowed: hf://models/USER/NAME"),
        (BUNDLE, "hf://spaces/a/b", "names a space of the Hub; allowed: hf://models"),
        (BUNDLE, "hf://gpt2", "id must be 'namespace/name', got 'gpt2'; allowed: hf://models"),
        (BUNDLE, "s3://bucket/b", "Must start with 'hf://'.*allowed: hf://models"),
        (str(GOLDEN / "moments"), "hf://a/b", "is of kind moment sums; allowed here: model, bundle, latent"),
    ],
)
def test_what_cannot_be_pushed_is_refused_without_a_request(hub, source, target, message):
    with pytest.raises(UserError, match=message):
        push(source, target)
    assert hub.requests == []


def test_tokens_and_missing_repositories_are_named(hub, monkeypatch, caplog):
    push(BUNDLE, FACES, private=True)
    push(BUNDLE, "hf://some/open")
    hub.repositories["models/some/gated"] = Repository(gated=True)
    hub.repositories["models/some/gated"].commit(hub.repositories["models/some/faces"].files)
    log_in = "`hf auth login`, or set HF_TOKEN"

    def refused(message: str, call, *arguments) -> None:
        with pytest.raises(UserError, match=message) as caught:
            call(*arguments)
        assert not isinstance(caught.value, TransientStorageError)
        assert all(token not in str(caught.value) + caplog.text for token in (WRITER, READER, "hf_wrong"))

    monkeypatch.delenv("HF_TOKEN")
    refused(
        f"faces does not exist on the Hub, or it is private and you are not logged in: .*{log_in}",
        lbae.load_bundle,
        FACES,
    )
    refused(
        f"some/gated@.* is gated: accept its terms at {hub.url}/some/gated, then log in",
        lbae.load_bundle,
        "hf://some/gated",
    )
    refused(
        f"hf://models/new/bundle cannot be written without a token: .*{log_in}",
        push,
        BUNDLE,
        "hf://new/bundle",
    )
    refused(
        f"cannot be written without a token: .*{log_in}",
        lambda: push(BUNDLE, "hf://some/open", license="mit"),
    )
    monkeypatch.setenv("HF_TOKEN", READER)
    assert is_loaded(FACES)
    refused(
        "hf://some/none does not exist on the Hub, or .* your token may not read it; check its name",
        lbae.load_bundle,
        "hf://some/none",
    )
    refused("cannot be written with your token .*rights.*may write", push, BUNDLE, "hf://new/bundle")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    refused("the Hub refuses your token .Invalid credentials", lbae.load_bundle, "hf://some/none")
    monkeypatch.setenv("HF_TOKEN", WRITER)
    refused(f"{FACES}@v9 has no such revision; give a branch", lbae.load_bundle, f"{FACES}@v9")
    refused("has no such revision", lbae.load_bundle, f"{FACES}@{'1' * 40}")
    refused(
        "cannot be written.*license. must be one of", lambda: push(BUNDLE, FACES, license="not-a-license")
    )


def test_without_network_the_cache_answers_or_the_error_may_pass(hub, monkeypatch):
    version = push(BUNDLE, FACES)["version"]
    hub.status = 503
    with pytest.raises(TransientStorageError, match=f"{FACES} cannot be read: the Hub at {hub.url} failed"):
        lbae.load_bundle(FACES)
    hub.status = 0
    assert is_loaded(FACES)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    assert is_loaded(FACES)
    assert is_loaded(version)
    with pytest.raises(TransientStorageError, match=r"hf://some/other cannot be read: .*Connection refused"):
        lbae.load_bundle("hf://some/other")
    with pytest.raises(TransientStorageError, match=r"hf://new/bundle cannot be read: .*Connection refused"):
        push(BUNDLE, "hf://new/bundle")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert is_loaded(FACES)
    with pytest.raises(UserError, match=r"hf://some/other is not in the cache .*HF_HUB_OFFLINE"):
        lbae.load_bundle("hf://some/other")


def test_the_job_prints_one_line(hub):
    done = run_job("push", BUNDLE, FACES)
    assert json.loads(done.out)["version"].startswith(f"{FACES}@")
    hub.status = 500
    failed = run_job("push", BUNDLE, "hf://some/other")
    assert (failed.code, "Traceback" in failed.err) == (1, False)
    assert "hf://some/other cannot be read" in failed.error


def test_a_job_writes_to_no_repository(hub, tmp_path):
    done = run_job("export", "--model", GOLDEN / "model", "--out", "hf://models/some/exported")
    assert (done.code, "give --out a folder or bucket, then run `lbae push`" in done.error) == (2, True)
    assert hub.requests == []


def test_without_the_package_the_extra_is_named():
    code = "import sys; sys.modules['huggingface_hub'] = None; from lbae.io.storage.hub import pinned"
    code += "; pinned('hf://some/faces')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].endswith("huggingface_hub: pip install 'lbae[hf]'")


@pytest.mark.slow
def test_the_environment_of_huggingface_hub_decides(hub, tmp_path):
    """In a process of its own: HF_ENDPOINT, HF_HUB_CACHE and HF_TOKEN are read, and no bar is drawn."""
    for name in ("first", "second"):
        command = [sys.executable, "jobs/push.py", BUNDLE, f"hf://some/{name}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
    hub.requests.clear()
    done = subprocess.run(
        [sys.executable, "jobs/sample.py", "--bundle", "hf://some/first", "--out", str(tmp_path / "a.png")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert any("/resolve/" in request for request in hub.requests)
