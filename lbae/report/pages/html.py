"""One self-contained HTML page: headings, sentences, pictures as data URIs, tables."""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass

_STYLE = """
:root { color-scheme: light dark; --muted: #667; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .3rem; }
p { margin: .3rem 0 .8rem; color: var(--muted); }
img { max-width: 100%; }
table { border-collapse: collapse; } 
td, th { padding: .25rem .8rem .25rem 0; text-align: left; vertical-align: top; }
td { font-variant-numeric: tabular-nums; overflow-wrap: break-word; }
@media (prefers-color-scheme: dark) { :root { --muted: #aab; } }
"""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading, a sentence, rows of a table, and pictures (PNG)."""

    title: str
    text: str = ""
    pictures: Sequence[bytes] = ()
    header: Sequence[str] = ()
    rows: Sequence[Sequence[object]] = ()


def page(title: str, sections: Sequence[Section]) -> str:
    """The HTML of a page that loads nothing from elsewhere."""
    body = "\n".join(_section(section) for section in sections)
    head = (
        f'<meta charset="utf-8"><title>{html.escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style>"
    )
    text = f"<h1>{html.escape(title)}</h1>\n{body}"
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>{text}\n</body></html>\n'


def _section(section: Section) -> str:
    parts = [f"<h2>{html.escape(section.title)}</h2>"]
    if section.text:
        parts.append(f"<p>{html.escape(section.text)}</p>")
    if section.rows:
        head = (
            f"<tr>{''.join(f'<th>{html.escape(name)}</th>' for name in section.header)}</tr>"
            if section.header
            else ""
        )
        parts.append(f"<table>{head}{''.join(_row(row) for row in section.rows)}</table>")
    for picture in section.pictures:
        data = base64.b64encode(picture).decode()
        parts.append(f'<img alt="{html.escape(section.title)}" src="data:image/png;base64,{data}">')
    return "\n".join(parts)


def _row(cells: Sequence[object]) -> str:
    first, *rest = (html.escape(str(cell)) for cell in cells)
    return f"<tr><th>{first}</th>{''.join(f'<td>{cell}</td>' for cell in rest)}</tr>"
