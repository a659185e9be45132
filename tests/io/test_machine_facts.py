"""The checks of a machine, and the fixes they name."""

import os
from importlib.metadata import version
from pathlib import Path

import pytest

from lbae.io import machine_facts


def checked(name: str) -> machine_facts.Check:
    return next(check for check in machine_facts.checks() if check.name == name)


def test_installed_packages_are_compared_with_a_lock_file():
    lock = f"""# a comment
numpy=={version("numpy")}
    # via lbae
pillow==1.0 \\
    --hash=sha256:00
not-installed-anywhere==1.0
torch=={version("torch").partition("+")[0]}
scipy==1.0 ; sys_platform == 'win32'
"""
    assert machine_facts.differences(lock) == [
        f"pillow {version('pillow')} is installed, but the lock file pins ==1.0"
    ]


def test_another_image_is_told_from_the_same():
    here = machine_facts.image_facts()
    assert machine_facts.image_differences(here) == []
    assert machine_facts.image_differences({**here, "torch": "1.0"}) == [
        f"torch {here['torch']} where the job has 1.0"
    ]


@pytest.mark.parametrize(
    ("mode", "token", "ok", "note"),
    [
        ("token", "secret", True, "found; RAY_AUTH_MODE is token"),
        ("token", None, False, "RAY_AUTH_MODE is token; `ray get-auth-token --generate` makes one"),
        (None, None, True, "RAY_AUTH_MODE is not set; `ray get-auth-token --generate` makes one"),
        ("disabled", None, True, "anyone who can reach the cluster's ports can run code on it"),
    ],
)
def test_the_token_is_found_but_not_shown(tmp_path, monkeypatch, mode, token, ok, note):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    if mode:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    if token:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text(token)
    found = checked("token")
    assert (found.ok, note in found.note, "secret" in found.note) == (ok, True, False), found


def test_the_storage_check_leaves_no_files(tmp_path):
    found = machine_facts.storage(str(tmp_path))
    assert (found.ok, list(tmp_path.iterdir())) == (True, [])
    (tmp_path / "file").touch()
    found = machine_facts.storage(f"{tmp_path}/file/folder")
    assert not found.ok
    assert "Not a directory" in found.note


def test_an_unusable_bucket_is_reported_without_its_keys(s3, monkeypatch):
    assert machine_facts.storage(f"{s3}/folder").ok
    found = machine_facts.storage("s3://nowhere/folder")
    assert (found.ok, "check the path, the keys and AWS_ENDPOINT_URL" in found.note) == (False, True)
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in found.note.split()


def test_memory_is_at_most_the_machines():
    found = checked("memory")
    gigabytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    assert 0 < float(found.note.split()[0]) <= gigabytes + 0.1
