"""Progress on standard error: images or rows per second, and the time left."""

import logging
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

_logger = logging.getLogger(__name__)


_LOG_EVERY_S = 10.0


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:,.0f} {self.unit}/s")


class ProgressLine:
    """A live line on a terminal; elsewhere (logs of submitted jobs) a log line every ten seconds."""

    def __init__(self, what: str, total: int, unit: str) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done = self._before = 0
        self._note = ""
        self._began = self._started = self._updated = self._logged = time.monotonic()
        console = Console(stderr=True)
        self._live = console.is_terminal and log.form() == "plain"
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
        if not self._live and kind is None:
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
        if not self._live and time.monotonic() - self._logged > _LOG_EVERY_S:
            self._log()

    def _log(self) -> None:
        self._logged = time.monotonic()
        text = f"{self.what}: {self.done:,} of {self.total:,} {self.unit}"
        if self.done > self._before:
            text += f", {self.rate:,.0f} {self.unit}/s, {(self.total - self.done) / self.rate:.0f} s left"
        _logger.info(f"{text}  {self._note}".rstrip())
