"""MkDocs' hooks: they fill pages with what the code says, and add pages of files that lie outside docs/.

A page asks for generated text by a comment such as ``<!-- generated: endpoint POST /v1/sample -->``.
"""

import re
from functools import cache
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from docs.generate import http_reference, job_options
from lbae.io.artifacts.manifest import FORMAT_VERSION
from lbae.report.evaluation.streams import PROTOCOL_VERSION

_ROOT = Path(__file__).parents[2]
_PAGES = {"changelog.md": "CHANGELOG.md"}
"""Pages of the site that are files of the repository."""
_MARK = re.compile(r"<!-- generated: (.+?) -->")
_OUTSIDE = re.compile(r"(?<!!)\[([^\]]+)\]\((?:\.\./)+(?!\.)([^)#]*)(#[^)]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside docs/."""
    for page, path in _PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(_ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in what is generated, and take care of links to files that are no pages."""
    source = page.file.src_uri
    wanted = _MARK.findall(markdown)
    if source == "reference/http.md":
        _check_every_endpoint(wanted)
    filled = _MARK.sub(lambda mark: _generated(mark[1], source), markdown)
    return _OUTSIDE.sub(lambda link: _inside(link, source), filled)


def _generated(what: str, source: str) -> str:
    kind, _, name = what.partition(" ")
    makers = {
        "jobs": lambda _: job_options.reference(),
        "endpoint": lambda endpoint: _endpoints()[endpoint],
        "fields": http_reference.fields_of,
        "limit": http_reference.limit,
        "errors": lambda _: http_reference.error_types(),
        "format-version": lambda _: str(FORMAT_VERSION),
        "protocol-version": lambda _: str(PROTOCOL_VERSION),
    }
    if kind not in makers:
        raise PluginError(f"{source} asks for {what!r}; allowed: {', '.join(makers)}")
    return makers[kind](name)


@cache
def _endpoints() -> dict[str, str]:
    return http_reference.endpoints()


def _check_every_endpoint(wanted: list[str]) -> None:
    described = {what.removeprefix("endpoint ") for what in wanted if what.startswith("endpoint ")}
    if different := described ^ _endpoints().keys():
        raise PluginError(f"reference/http.md and the OpenAPI document differ in {sorted(different)}")


def _inside(link: re.Match[str], source: str) -> str:
    """A link that leaves its folder: unchanged within docs/, to a page of ``_PAGES``, else its text alone."""
    text, target, anchor = link[1], link[2], link[3] or ""
    up = link[0].count("../")
    if up <= source.count("/"):
        return link[0]
    pages = {path: page for page, path in _PAGES.items()}
    if target in pages:
        return f"[{text}]({'../' * (up - 1)}{pages[target]}{anchor})"
    return text
