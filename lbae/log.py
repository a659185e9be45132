"""Log lines of a job on standard error: plain text, or one JSON object per line with ``LBAE_LOG=json``.

A job shows the records of this package from INFO, and warnings and errors of all libraries. The package
itself configures no logging.
"""

import json
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from lbae.errors import UserError

_VARIABLE = "LBAE_LOG"
_PACKAGE = "lbae"


def form() -> str:
    """Return the value of LBAE_LOG, plain or json; UserError for any other."""
    asked = os.environ.get(_VARIABLE, "plain")
    if asked not in ("plain", "json"):
        raise UserError(f"{_VARIABLE} is {asked!r}; allowed: plain, json")
    return asked


@contextmanager
def on_stderr() -> Iterator[None]:
    """Show log records, warnings and uncaught errors of threads on standard error during the block."""
    json_wanted = os.environ.get(_VARIABLE) == "json"
    if json_wanted or not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # else drawn into logs as well
    root, own, handler = logging.getLogger(), logging.getLogger(_PACKAGE), logging.StreamHandler()
    handler.setFormatter(JsonLines() if json_wanted else PlainLines())
    levels, hooks = (root.level, own.level), (threading.excepthook, sys.unraisablehook)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    own.setLevel(logging.INFO)
    logging.captureWarnings(True)
    threading.excepthook = sys.unraisablehook = _log_uncaught
    try:
        yield
    finally:
        logging.captureWarnings(False)
        threading.excepthook, sys.unraisablehook = hooks
        root.removeHandler(handler)
        root.setLevel(levels[0])
        own.setLevel(levels[1])


class JsonLines(logging.Formatter):
    """``{time, level, logger, message}`` with the time in UTC; the message includes any traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {
            "time": when,
            "level": record.levelname,
            "logger": record.name,
            "message": super().format(record),
        }
        return json.dumps(line)


class PlainLines(logging.Formatter):
    """``MESSAGE`` or ``warning: MESSAGE`` for this package, ``WARNING logger: MESSAGE`` for others."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text."""
        message = super().format(record)
        if record.name.partition(".")[0] != _PACKAGE:
            return f"{record.levelname} {record.name}: {message}"
        return message if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {message}"


def _log_uncaught(failed: Any) -> None:
    error = (failed.exc_type, failed.exc_value, failed.exc_traceback)
    logging.getLogger(_PACKAGE).error("uncaught exception", exc_info=error)
