"""A page of the site made from a notebook: cells and stored outputs as Markdown, pictures as files."""

from pathlib import Path

from nbconvert import MarkdownExporter

# nbconvert's own template says "png" where a picture cannot be seen, and indents text by four spaces.
_TEMPLATE = """
{%- extends "markdown/index.md.j2" -%}
{% block stream %}{{ fenced(output.text) }}{% endblock stream %}
{% block data_text %}{{ fenced(output.data["text/plain"]) }}{% endblock data_text %}
{% block data_png %}
![Output of the code above]({{ output.metadata.filenames["image/png"] }})
{% endblock data_png %}
{% macro fenced(text) %}
``` { .text .output }
{{ text.rstrip() }}
```
{% endmacro %}
"""


def as_page(notebook: Path) -> tuple[str, dict[str, bytes]]:
    """Return a notebook as Markdown, and its pictures by their paths relative to the page."""
    place = {"unique_key": notebook.stem, "output_files_dir": f"{notebook.stem}_files"}
    text, found = MarkdownExporter(raw_template=_TEMPLATE).from_filename(str(notebook), resources=place)
    title, _, rest = text.lstrip().partition("\n")
    download = f'<a href="{notebook.name}" download>Download this notebook</a>'
    return f"{title}\n\n{download}\n{rest}", found["outputs"]
