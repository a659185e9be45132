"""The form of a job's log lines: plain, or one JSON object each with ``LBAE_LOG=json`` in the environment."""

import json
import logging
import os
import sys
from datetime import UTC, datetime

from lbae.errors import UserError

_VARIABLE = "LBAE_LOG"


class JsonLines(logging.Formatter):
    """``{time, level, logger, message}``, the time in UTC; a traceback is part of the message."""

    def format(self, record: logging.LogRecord) -> str:
        """The record on one line."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {
            "time": when,
            "level": record.levelname,
            "logger": record.name,
            "message": super().format(record),
        }
        return json.dumps(line)


def configure() -> None:
    """Send warnings and errors of all libraries to standard error; a logging that is configured already stays
    as it is.

    UserError when the environment asks for another form than there is.
    """
    asked = os.environ.get(_VARIABLE, "plain")
    if asked not in ("plain", "json"):
        raise UserError(f"{_VARIABLE} is {asked!r}; allowed: plain, json")
    logging.getLogger("lbae").setLevel(logging.INFO)
    handler = logging.StreamHandler()
    handler.setFormatter(
        JsonLines() if asked == "json" else logging.Formatter("%(levelname)s %(name)s: %(message)s")
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


def say(message: str, level: int = logging.INFO) -> None:
    """Tell a job's user on standard error: ``MESSAGE``, ``warning: MESSAGE``, or a line of JSON where that is
    asked for.
    """
    if os.environ.get(_VARIABLE) == "json":
        logging.getLogger("lbae").log(level, message)
    else:
        word = f"{logging.getLevelName(level).lower()}: " if level > logging.INFO else ""
        print(f"{word}{message}", file=sys.stderr, flush=True)


def warning(message: str) -> None:
    """Say what a result suffers from."""
    say(message, logging.WARNING)


def error(message: str) -> None:
    """Say why a job ends."""
    say(message, logging.ERROR)
