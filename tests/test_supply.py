"""What the project says of the packages that it stands on."""

import importlib.util
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT


def test_licences_are_listed_for_all_that_is_pinned():
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line[:1].isalpha()]
    pinned = [Requirement(line) for line in lines]
    rows = re.findall(
        r"^\| *([\w.-]+) *\| *(\S.*?) *\|$", (ROOT / "docs" / "licences.md").read_text(), re.MULTILINE
    )
    listed = {canonicalize_name(name) for name, _ in rows[1:] if not name.startswith("-")}
    assert listed <= {one.name for one in pinned}
    # Those with markers are for other systems or versions of Python than the one where the list was made.
    assert {one.name for one in pinned if one.marker is None} <= listed, "run `make licences`"


def test_the_lock_file_names_no_index():
    assert not re.search(r"^--|https?:|file:", (ROOT / "requirements.lock").read_text(), re.MULTILINE)


@pytest.mark.parametrize("name", ["torch", "ray", "pandas"])
def test_packages_are_compiled(name):
    """Where PYTHONDONTWRITEBYTECODE is set, every process of a job would compile them anew, for seconds."""
    source = importlib.util.find_spec(name).origin
    assert Path(importlib.util.cache_from_source(source)).exists(), "run `make .venv/ready`"
