"""MkDocs' hooks: they fill pages with what the code says, and add pages of files that lie outside docs/.

A page asks for generated text by a comment such as ``<!-- generated: endpoint POST /v1/sample -->``.
"""

import logging
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from docs.generate import http_reference, job_options
from docs.generate.notebook_page import as_page
from lbae.io.artifacts.manifest import FORMAT_VERSION
from lbae.report.evaluation.streams import PROTOCOL_VERSION

_logger = logging.getLogger(f"mkdocs.{__name__}")  # its warnings end a strict build

_ROOT = Path(__file__).parents[2]
_PAGES = {"changelog.md": "CHANGELOG.md"}
"""Pages of the site that are files of the repository."""
_MARK = re.compile(r"<!-- generated: (.+?) -->")
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#\s]+)(#[^)]*)?\)")
_NOTEBOOK = re.compile(r"(\]\([\w./-]+)\.ipynb\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside docs/, and those of notebooks."""
    for page, path in _PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(_ROOT / path)))
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        place = PurePosixPath(notebook.src_uri)
        text, pictures = as_page(_ROOT / "docs" / place)
        files.append(File.generated(config, str(place.with_suffix(".md")), content=text))
        for name, content in pictures.items():
            files.append(File.generated(config, str(place.parent / name), content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in what is generated, and take care of links to files that are no pages."""
    source = page.file.src_uri
    wanted = _MARK.findall(markdown)
    if source == "reference/http.md":
        _check_every_endpoint(wanted)
    filled = _MARK.sub(lambda mark: _generated(mark[1], source), markdown)
    folder = (_ROOT / _PAGES.get(source, f"docs/{source}")).parent
    linked = _LINK.sub(lambda link: _inside(link, source, folder), filled)
    return _NOTEBOOK.sub(r"\1.md)", linked)  # the page that is made from it


def _generated(what: str, source: str) -> str:
    kind, _, name = what.partition(" ")
    if kind not in _MAKERS:
        raise PluginError(f"{source} asks for {what!r}; allowed: {', '.join(_MAKERS)}")
    return _MAKERS[kind](name)


@cache
def _endpoints() -> dict[str, str]:
    return http_reference.endpoints()


_MAKERS: dict[str, Callable[[str], str]] = {
    "jobs": lambda _: job_options.reference(),
    "endpoint": lambda name: _endpoints()[name],
    "fields": http_reference.fields_of,
    "limit": http_reference.limit,
    "errors": lambda _: http_reference.error_types(),
    "format-version": lambda _: str(FORMAT_VERSION),
    "protocol-version": lambda _: str(PROTOCOL_VERSION),
}


def _check_every_endpoint(wanted: list[str]) -> None:
    described = {what.removeprefix("endpoint ") for what in wanted if what.startswith("endpoint ")}
    if different := described ^ _endpoints().keys():
        raise PluginError(f"reference/http.md and the OpenAPI document differ in {sorted(different)}")


def _inside(link: re.Match[str], source: str, folder: Path) -> str:
    """A link of a page that lies in ``folder`` of the repository, as the site has it.

    Files that are no pages have no place in the site: of a link to one its text remains.
    """
    text, target, anchor = link[1], link[2], link[3] or ""
    path, outside = (folder / target).resolve(), source in _PAGES
    if ":" in target or not (outside or target.startswith("../")):
        return link[0]
    if path.is_relative_to(_ROOT / "docs") and not outside:
        return link[0]
    if not path.exists():
        _logger.warning(f"{source} links to {target}, which does not exist")
    up = "../" * source.count("/")
    pages = {(_ROOT / file).resolve(): page for page, file in _PAGES.items()}
    if path in pages:
        return f"[{text}]({up}{pages[path]}{anchor})"
    if path.is_relative_to(_ROOT / "docs"):
        return f"[{text}]({up}{path.relative_to(_ROOT / 'docs')}{anchor})"
    return text
