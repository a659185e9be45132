"""What the project states about its dependencies."""

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT


def test_licences_are_listed_for_all_pinned_packages():
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line[:1].isalpha()]
    pinned = [Requirement(line.rstrip(" \\")) for line in lines]
    rows = re.findall(
        r"^\| *([\w.-]+) *\| *(\S.*?) *\|$", (ROOT / "docs" / "licences.md").read_text(), re.MULTILINE
    )
    listed = {canonicalize_name(name) for name, _ in rows[1:] if not name.startswith("-")}
    assert listed <= {one.name for one in pinned}
    # Packages with markers may be for another system or Python than that of the list.
    assert {one.name for one in pinned if one.marker is None} <= listed, "run `make licences`"


def test_the_lock_file_has_a_hash_of_every_package():
    """`uv pip sync --require-hashes` then refuses a package whose file was replaced on the index."""
    text = (ROOT / "requirements.lock").read_text()
    entries = re.findall(r"^([\w.-]+)==.*?(?=^[\w.-]+==|\Z)", text, re.MULTILINE | re.DOTALL)
    hashed = re.findall(r"^([\w.-]+)==[^\n]*\\\n    --hash=sha256:[0-9a-f]{64}\b", text, re.MULTILINE)
    assert hashed == entries
    assert len(hashed) > 100


def test_the_lock_file_names_no_index():
    assert not re.search(r"^--|https?:|file:", (ROOT / "requirements.lock").read_text(), re.MULTILINE)


def test_the_quickstart_says_what_each_extra_is_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = re.findall(r"\| `pip install '\.\[(\w+)\]'`", (ROOT / "docs" / "quickstart.md").read_text())
    assert sorted(listed) == sorted(project["optional-dependencies"])


@pytest.mark.parametrize("name", ["torch", "ray", "pandas"])
def test_packages_are_compiled(name):
    """With PYTHONDONTWRITEBYTECODE, every process of a job would spend seconds on compiling them again."""
    source = importlib.util.find_spec(name).origin
    assert Path(importlib.util.cache_from_source(source)).exists(), "run `make .venv/ready`"
