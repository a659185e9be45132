"""Progress and pictures in a real Jupyter kernel."""

import sys
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import ROOT

pytestmark = pytest.mark.slow

PROGRESS = """
import logging, time
from lbae import log
from lbae.report.progress import ProgressLine
with log.on_stderr(), ProgressLine("encode", 50, "images") as line:
    for done in range(51):
        time.sleep(0.02)
        line.update(done)
"""


def outputs(*cells: str) -> list[list[dict[str, Any]]]:
    """What each cell of a notebook shows."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": ROOT}}
    ).execute()
    return [cell.outputs for cell in notebook.cells]


@pytest.fixture(scope="module")
def shown(tmp_path_factory) -> list[list[dict[str, Any]]]:
    script = tmp_path_factory.mktemp("script") / "progress.py"
    script.write_text(PROGRESS)
    bundle = ROOT / "tests" / "golden" / "v1" / "bundle"
    return outputs(
        PROGRESS,
        f"!PYTHONPATH={ROOT} {sys.executable} {script}",
        f"import lbae\nbundle = lbae.load_bundle({str(bundle)!r})\nlbae.grid(bundle.sample(4, seed=0))",
        "bundle.attributes",
        "bundle",
    )


def test_a_progress_line_is_one_output_with_its_last_state(shown):
    (output,) = shown[0]
    assert output["data"]["text/plain"].startswith("encode: 50 of 50 images, ")
    assert output["data"]["text/html"].startswith('<progress value="1.000">')


def test_a_command_in_a_cell_prints_lines_and_no_frames(shown):
    (output,) = shown[1]
    (line,) = output["text"].splitlines()
    assert line.startswith("encode: 50 of 50 images, ")
    assert "\x1b" not in line


def test_objects_have_pictures_and_tables(shown):
    (picture,), (table,), (bundle,) = shown[2:]
    assert picture["data"]["image/png"]
    assert picture["data"]["text/plain"] == "Picture(262 x 262 pixels)"
    assert "<td>label</td>" in table["data"]["text/html"]
    assert bundle["data"]["text/plain"].startswith("Bundle(fingerprint=")
