"""Progress on standard error: images or rows per second, and the time left."""

import logging
import os
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from lbae import log
from lbae.report.notebook_line import NotebookLine

_logger = logging.getLogger(__name__)


_LOG_EVERY_S = 10.0


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:,.0f} {self.unit}/s")


class ProgressLine:
    """A live line on a terminal or in a notebook; elsewhere (submitted jobs) a log line per 10 s."""

    def __init__(self, what: str, total: int, unit: str) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done = self._before = 0
        self._note = ""
        self._began = self._started = self._updated = self._logged = time.monotonic()
        console = Console(stderr=True)
        plain = log.form() == "plain"
        self._notebook = NotebookLine() if console.is_jupyter and plain else None
        # A notebook gives the processes that a cell starts a terminal, and keeps every frame of a live line.
        self._live = console.is_terminal and plain and "JPY_PARENT_PID" not in os.environ
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(unit),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not self._live,
        )
        self._task = self._bar.add_task(what, total=total, note="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        if self._notebook:
            self._notebook.show(self._text(), self.done / max(1, self.total), now=True)
        elif not self._live and kind is None:
            self._log()

    @property
    def rate(self) -> float:
        """Units per second since the first update with any done; after only one such, since the start."""
        if self.done == self._before:
            return self.done / max(1e-9, self._updated - self._began)
        return (self.done - self._before) / max(1e-9, self._updated - self._started)

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        """Set how many units are done, and a note. The rate leaves out start-up, until the first are done."""
        self._updated = time.monotonic()
        if not self.done and done:
            self._started, self._before = self._updated, done
        self.done, self.total, self._note = done, total or self.total, note or self._note
        self._bar.update(self._task, completed=done, total=self.total, note=self._note)
        if self._notebook:
            self._notebook.show(self._text(), self.done / max(1, self.total))
        elif not self._live and time.monotonic() - self._logged > _LOG_EVERY_S:
            self._log()

    def _log(self) -> None:
        self._logged = time.monotonic()
        _logger.info(self._text())

    def _text(self) -> str:
        text = f"{self.what}: {self.done:,} of {self.total:,} {self.unit}"
        if self.done > self._before:
            text += f", {self.rate:,.0f} {self.unit}/s, {(self.total - self.done) / self.rate:.0f} s left"
        return f"{text}  {self._note}".rstrip()
