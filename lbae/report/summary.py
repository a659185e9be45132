"""The summary that a job prints for people: what it made and where, counts, seconds, the next command."""

import shlex
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lbae.errors import printable
from lbae.report.leaves import leaves

_ROWS = {  # by job: the label of each row, and the dotted name of its value in the result
    "demo": {
        "report": "page",
        "PSNR of held-out images": "reconstruction_of_held_out_images.psnr_db",
        "components of the prior": "stages.fit.components",
        "training seconds": "stages.train.seconds",
        "encoding seconds": "stages.encode.seconds",
        "reduction seconds": "stages.reduce.seconds",
        "fitting seconds": "stages.fit.seconds",
    },
    "train": {
        "model": "out",
        "images": "images",
        "undecodable images": "bad",
        "best epoch": "best_epoch",
        "validation loss": "validation_loss",
        "images per second": "images_per_second",
        "device": "device",
        "seconds": "seconds",
    },
    "pipeline": {"bundle": "bundle", "components of the prior": "stages.fit.components", "out": "out"},
}
_NEXT = {  # by job: the next commands, filled in from its options and its result
    "demo": ("python -m webbrowser {page}", "lbae serve --bundle {out}/bundle"),
    "ingest": ("lbae train --data {out} --preset PRESET --out MODEL",),
    "train": ("lbae encode --model {out} --data {data} --out LATENTS",),
    "encode": ("lbae reduce --latents {out} --out MOMENTS",),
    "reduce": ("lbae fit --model MODEL --latents {latents} --moments {out} --out BUNDLE",),
    "fit": ("lbae sample --bundle {out} --out samples.png", "lbae serve --bundle {out}"),
    "pipeline": ("lbae sample --bundle {bundle} --out samples.png", "lbae serve --bundle {bundle}"),
}
_LONG = 5


def print_summary(job: str, result: dict[str, Any], options: dict[str, Any]) -> None:
    """Print a short table of the job's result, and the next commands."""
    console = Console()
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    values = dict(leaves(result))
    chosen = _ROWS.get(job) or {name.replace("_", " "): name for name in values if name != "already"}
    for label, name in chosen.items():
        if name in values:
            table.add_row(Text(printable(label)), Text(printable(_text(values[name]))))
    if result.get("already"):
        table.add_row("", "finished by an earlier run; there was nothing to do")
    console.print(table)
    for command in _NEXT.get(job, ()):
        filled = {
            name: shlex.join(value) if isinstance(value, tuple) else shlex.quote(str(value))
            for name, value in (options | result).items()
        }
        line = f"  next: {command.format_map(filled)}"
        console.print(printable(line), soft_wrap=True, highlight=False, markup=False)  # one line to copy


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, list) and (len(value) > _LONG or any(isinstance(one, dict | list) for one in value)):
        return f"{len(value):,} entries, listed with --json"
    return ", ".join(map(_text, value)) if isinstance(value, list) else str(value)
