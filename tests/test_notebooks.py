"""The notebooks of the documentation: what is stored, and that a run shows it again."""

import ast
import base64
import importlib
import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from docs.generate.notebook_page import as_page
from tests.conftest import ROOT
from tests.test_docs import long_parts

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
LARGEST = 300_000  # bytes
# What a run on one machine must not leave behind: folders, addresses, processes, times.
OF_ONE_MACHINE = re.compile(
    r"/(?:home|root|tmp|work|Users|usr|opt|mnt)/|\b\d+\.\d+\.\d+\.\d+\b|\bpid=|\b20\d\d-\d\d-\d\d"
)
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def outputs(notebook: NotebookNode) -> list[list[str]]:
    """Per code cell, its texts with measured numbers left out, and the kinds of its pictures."""
    return [
        [
            re.sub(r"\d+\.\d+", "0.0", output.get("text") or output["data"]["text/plain"])
            + ("a picture" if "image/png" in output.get("data", ()) else "")
            for output in cell.outputs
        ]
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def test_there_are_notebooks():
    assert [path.stem for path in NOTEBOOKS] == ["large_corpora", "quickstart"]


@each_notebook
def test_a_notebook_is_stored_as_it_ran(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert path.stat().st_size < LARGEST
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "run `make notebooks`"
    kept = [output for cell in code for output in cell.outputs]
    assert {output.get("name", "stdout") for output in kept} == {"stdout"}
    assert {kind for output in kept for kind in output.get("data", ())} == {"image/png", "text/plain"}
    for picture in [output["data"]["image/png"] for output in kept if "image/png" in output.get("data", ())]:
        assert base64.b64decode(picture).startswith(b"\x89PNG")
    assert all(cell.metadata == {} for cell in notebook.cells)


@each_notebook
def test_nothing_of_one_machine_is_stored(path):
    notebook = nbformat.read(path, as_version=4)
    texts = [cell.source for cell in notebook.cells] + [text for cell in outputs(notebook) for text in cell]
    assert [found for text in texts for found in OF_ONE_MACHINE.findall(text)] == []


@each_notebook
def test_prose_is_as_short_as_on_other_pages(path):
    text, _ = as_page(path)
    assert long_parts(text) == []


@each_notebook
def test_a_page_shows_all_cells_and_pictures(path):
    notebook = nbformat.read(path, as_version=4)
    text, pictures = as_page(path)
    assert [part for cell in notebook.cells for part in cell.source.split("\n\n") if part not in text] == []
    shown = re.findall(r"!\[Output of the code above\]\((.+?)\)", text)
    assert shown == list(pictures)
    assert len(shown) == sum(found.endswith("a picture") for cell in outputs(notebook) for found in cell)


def run(path: Path) -> NotebookNode:
    """Run a notebook and store it, as ``make notebooks`` does. Its libraries leave sockets open."""
    command = [sys.executable, "-m", "docs.generate.run_notebooks", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return nbformat.read(path, as_version=4)


def test_a_run_keeps_text_and_pictures_in_png(tmp_path):
    source = """
import os, sys
from PIL import Image
from lbae.report.notebook_line import NotebookLine
print("progress", file=sys.stderr)
NotebookLine().show("progress", 0.5)
print(os.listdir())
Image.new("L", (2, 3))
"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)], metadata={"own": 1})
    nbformat.write(notebook, tmp_path / "a.ipynb")
    made = run(tmp_path / "a.ipynb")
    nbformat.validate(made)
    printed, shown = made.cells[0].outputs
    assert printed == {"output_type": "stream", "name": "stdout", "text": "[]\n"}
    assert shown.data.keys() == {"image/png", "text/plain"}
    assert made.metadata.keys() == {"kernelspec", "language_info"}


@pytest.mark.slow
@each_notebook
def test_a_run_shows_what_is_stored(path, ray_session, tmp_path):
    shutil.copy(path, tmp_path)
    assert outputs(run(tmp_path / path.name)) == outputs(nbformat.read(path, as_version=4))


@each_notebook
def test_jobs_know_the_options_that_notebooks_give(path):
    notebook = nbformat.read(path, as_version=4)
    tree = ast.parse("\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code"))
    jobs = {
        alias.name: getattr(importlib.import_module(node.module), alias.name)
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module.startswith("lbae.jobs.")
        for alias in node.names
    }
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    called = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id in jobs]
    assert {call.func.id for call in called} == jobs.keys()
    for call in called:
        options = {word.arg: word.value for word in call.keywords if word.arg}
        inspect.signature(jobs[call.func.id]).bind_partial(*call.args, **options)
