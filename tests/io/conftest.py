"""A Hub on the loopback, for the tests that push to it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub_server import WRITER, Hub, running_hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty Hub; the token of this process may write."""
    with running_hub(monkeypatch, str(tmp_path / "cache")) as hub:
        monkeypatch.setenv("HF_TOKEN", WRITER)
        yield hub
