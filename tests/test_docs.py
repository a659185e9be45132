"""The documents: what they look like as text, and the site that is built from them."""

import inspect
import io
import json
import re
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token
from safetensors.numpy import load_file

from docs.generate import cluster_arithmetic
from docs.generate.job_options import Option, every_job, options_of
from lbae import cli
from lbae.io.artifacts.bundle_artifact import load_bundle
from lbae.io.artifacts.manifest import Manifest
from lbae.io.artifacts.moments_artifact import load_moments
from tests.conftest import ROOT

LINE, CELL, PARAGRAPH = 110, 120, 5
GENERATED = {ROOT / "docs" / "licences.md"}
OUTSIDE_THE_SITE = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    ROOT / "cluster" / "README.md",
]
WRITTEN = [*OUTSIDE_THE_SITE, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
GOLDEN = ROOT / "tests" / "golden" / "v1"
FORMATS = (ROOT / "docs" / "reference" / "formats.md").read_text()


def text_of(path: Path) -> str:
    """A document; of the changelog the section that is still written."""
    text = path.read_text()
    if path.name == "CHANGELOG.md":
        return text.partition("## Unreleased")[2].partition("\n## ")[0]
    return text


def tokens(text: str) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(text)


@pytest.mark.parametrize(
    "path", [path for path in WRITTEN if path not in GENERATED], ids=lambda path: str(path.relative_to(ROOT))
)
def test_lines_cells_and_paragraphs_are_short(path):
    assert long_parts(text_of(path)) == []


def long_parts(text: str) -> list[str]:
    """Prose lines, table cells and paragraphs that are too long."""
    lines, found, in_table = text.splitlines(), [], False
    for token in tokens(text):
        in_table = token.type == "table_open" or (in_table and token.type != "table_close")
        if token.type == "inline" and in_table and len(token.content) > CELL:
            found.append(f"cell of {len(token.content)} characters: {token.content[:60]}")
        if token.type in ("paragraph_open", "heading_open") and token.map:
            first, last = token.map
            found += [
                f"line of {len(line)} characters: {line[:60]}"
                for line in lines[first:last]
                if len(line) > LINE
            ]
            if last - first > PARAGRAPH:
                found.append(f"paragraph of {last - first} lines: {lines[first][:60]}")
    return found


def test_what_is_too_long_is_found():
    word = "word " * 30
    assert long_parts(f"{word}\n") == [f"line of 150 characters: {word[:60]}"]
    assert long_parts("a\n" * 6) == ["paragraph of 6 lines: a"]
    assert long_parts(f"| a |\n|---|\n| {word} |\n") == [f"cell of 149 characters: {word[:60]}"]
    assert long_parts(f"```text\n{word}\n```\n\n    {word}\n") == []


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as by ``make docs``: MkDocs checks links and anchors within it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def links(text: str) -> list[str]:
    """Targets of all links and images."""
    inner = [child for token in tokens(text) for child in token.children or ()]
    return [str(child.attrs[name]) for child in inner for name in ("href", "src") if name in child.attrs]


def anchors(path: Path, site: Path) -> set[str]:
    """Anchors of a document: of a page those of the site, else those that GitHub gives headings."""
    if path.is_relative_to(ROOT / "docs"):
        page = (site / path.relative_to(ROOT / "docs")).with_suffix(".html")
        return set(re.findall(r'\bid="?([^" >]+)', page.read_text()))
    parsed = tokens(path.read_text())
    headings = [parsed[i + 1].content for i, token in enumerate(parsed) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", OUTSIDE_THE_SITE, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_outside_the_site_resolve(path, site):
    broken = []
    for link in links(path.read_text()):
        target, _, anchor = link.partition("#")
        if ":" in target:  # of another site
            continue
        file = (path.parent / target).resolve() if target else path
        if not file.exists() or (anchor and anchor not in anchors(file, site)):
            broken.append(link)
    assert broken == []


def test_pages_fetch_nothing_from_elsewhere(site):
    fetched = re.compile(
        r"<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//[^>]*>"
    )
    assert {page.name: fetched.findall(page.read_text()) for page in site.rglob("*.html")} == {
        page.name: [] for page in site.rglob("*.html")
    }
    styles = "".join(file.read_text() for file in site.rglob("*.css"))
    assert not re.search(r"url\([\"']?https?:", styles)


def test_every_option_of_every_job_is_described(site):
    page = (site / "reference" / "jobs.html").read_text()
    for name, job in every_job():
        for parameter in inspect.signature(job).parameters:
            label = parameter.replace("_", "-").lower()
            assert re.search(rf'id="?{name.replace(" ", "-")}-{label}["> ]', page), f"{name} {label}"
        assert [option.label for option in options_of(job) if not option.meaning] == [], name


def test_every_job_is_in_the_reference():
    assert {name.split()[0] for name, _ in every_job()} == set(cli.JOBS)


def test_the_reference_says_what_help_prints(monkeypatch):
    for name, job in every_job():
        printed = io.StringIO()
        monkeypatch.setattr(sys, "argv", ["lbae", *name.split(), "--help"])
        with redirect_stdout(printed):
            cli.main()
        words = re.sub(r"\W+", " ", printed.getvalue())
        for option in options_of(job):
            assert re.sub(r"\W+", " ", option.meaning).strip() in words, f"{name} {option.label}"


def test_an_option_is_its_type_its_default_and_its_help():
    def job(name: str, /, *, count: int = 3, given: tuple[str, ...] = (), fast: bool = False) -> None:
        """Do it.

        Args:
            name: of ``it``.
            count: how
                many.
            given: a condition.
            fast: hurry.
        """

    assert options_of(job) == [
        Option(label="NAME", kind="text", state="required", meaning="of `it`."),
        Option(label="--count", kind="whole number", state="default `3`", meaning="how many."),
        Option(label="--given", kind="text, one or more", state="optional", meaning="a condition."),
        Option(label="--fast", kind="switch", state="default off", meaning="hurry."),
    ]


def test_the_arithmetic_of_the_cluster_guide_is_what_its_command_prints():
    page = (ROOT / "docs" / "guides" / "clusters.md").read_text()
    assert [table for table in cluster_arithmetic.tables() if table not in page] == []


def test_the_formats_page_names_what_artifacts_hold():
    named = {field.name for field in fields(Manifest)}
    for file in GOLDEN.rglob("*"):
        if file.suffix == ".safetensors":
            named |= {file.name} | (set(load_file(file)) if "weights" not in file.name else set())
    (part,) = GOLDEN.rglob("*.parquet")
    named |= {name.decode() for name in pq.read_schema(part).metadata} | {"key", "latent"}
    named |= set(json.loads((GOLDEN / "model" / "config.json").read_bytes())["model"])
    assert {name for name in named if f"`{name}`" not in FORMATS} == set()


def test_the_readers_of_the_formats_page_read():
    blocks = [
        block for block in re.findall(r"```python\n(.*?)```", FORMATS, re.DOTALL) if "torch" not in block
    ]
    table, sums, latent = ({"__name__": "reader"} for _ in range(3))
    for block, names in zip(blocks, (table, sums, latent), strict=True):
        exec(block.replace("runs/mine", str(GOLDEN)), names)
    assert table["latents"].shape == (40, 11)
    assert set(np.unique(table["latents"])) == {-1, 1}
    moments, _ = load_moments(str(GOLDEN / "moments"))
    np.testing.assert_array_equal(sums["mean"], moments.mean)
    np.testing.assert_array_equal(sums["second"], moments.second)
    np.testing.assert_array_equal(sums["mean"], table["latents"].mean(axis=0, dtype=np.float64))
    factor = load_bundle(str(GOLDEN / "bundle"), "cpu").prior.factors[0]
    np.testing.assert_array_equal(latent["factor"].astype(np.float32), factor)
    assert latent["latent"].shape == (11,)
