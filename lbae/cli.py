"""What every job shares: a command line from a function's signature, one line of JSON, one line an error, an
exit code.

``--version`` alone says what is installed; SIGTERM, which ``ray job stop`` sends, ends a job as Ctrl-C does.

Stands beside the layers.
"""

import contextlib
import difflib
import functools
import importlib
import inspect
import io
import json
import logging
import re
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import tyro

from lbae import log
from lbae.errors import (
    LbaeError,
    OverwriteNeeded,
    UnforeseenError,
    UserError,
    as_lbae_error,
    line_and_exit_code,
    unknown,
)
from lbae.io.machine import versions
from lbae.jobs.options import Names

Job = Callable[..., dict[str, Any] | None]

# In the order of a pipeline, as `lbae --help` lists them.
JOBS = {
    "demo": "lbae.jobs.demo",
    "ingest": "lbae.jobs.build.ingest",
    "train": "lbae.jobs.build.train",
    "encode": "lbae.jobs.build.encode",
    "reduce": "lbae.jobs.build.reduce",
    "fit": "lbae.jobs.build.fit",
    "evaluate": "lbae.jobs.build.evaluate",
    "pipeline": "lbae.jobs.pipeline",
    "sample": "lbae.jobs.use.sample",
    "reconstruct": "lbae.jobs.use.reconstruct",
    "interpolate": "lbae.jobs.use.interpolate",
    "edit": "lbae.jobs.use.edit",
    "search": "lbae.jobs.use.search",
    "serve": "lbae.jobs.use.serve",
    "show": "lbae.jobs.inspect.show",
    "moments": "lbae.jobs.inspect.moments",
    "losses": "lbae.jobs.inspect.losses",
    "export": "lbae.jobs.inspect.export",
    "doctor": "lbae.jobs.inspect.doctor",
}


def load_job(name: str) -> Job | dict[str, Job]:
    """The job of this name, or its subcommands by name."""
    job: Job | dict[str, Job] = getattr(importlib.import_module(JOBS[name]), name)
    return job


def main(name: str) -> None:
    """Run the job of this name with the command line's options, and exit."""
    run(load_job(name))


def call(job: Job, options: dict[str, Any], overwrite: bool = False) -> dict[str, Any] | None:
    """Call a job with options by their names in Python, which are checked as the command line's are.

    With ``overwrite`` it replaces what is of another make, but does not begin anew what is its own.
    """
    words = []
    for name, value in options.items():
        option = name.replace("_", "-")
        for one in value if isinstance(value, list) else [value]:
            words += (
                [f"--{option}" if one else f"--no-{option}"]
                if isinstance(one, bool)
                else [f"--{option}", str(one)]
            )
    try:
        return _parse(job, words)()
    except OverwriteNeeded:
        if not overwrite:
            raise
        return _parse(job, [*words, "--overwrite"])()


def run(job: Job | dict[str, Job]) -> None:
    """Call ``job`` (or the one of several that the first argument names) with the command line's options,
    print its result as the last line, and exit.

    Exit codes: 0 done, 1 the work failed (or a result says ``"ok": false``), 2 the user's mistake, 130
    interrupted, 143 stopped by SIGTERM; a mistake is one line, without a traceback.
    """
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        log.configure()
        result = versions() if sys.argv[1:] == ["--version"] else _parse(*_choose(job, sys.argv[1:]))()
    except Exception as error:
        if isinstance(as_lbae_error(error), UnforeseenError) and not isinstance(error, LbaeError):
            logging.getLogger(__name__).error("a traceback, for a report of this error:", exc_info=error)
        _fail(*line_and_exit_code(error))
    except KeyboardInterrupt:
        stopped = signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
        _fail(*(("stopped", 143) if stopped else ("interrupted", 130)))
    finally:
        signal.signal(signal.SIGTERM, before)
    if result is not None:
        print(json.dumps(result), flush=True)
        if not result.get("ok", True):
            sys.exit(1)


def _stop(*_: Any) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would cut the cleaning up short
    raise KeyboardInterrupt  # where Ray waits, it swallows any other exception of a handler


def _fail(message: str, code: int) -> NoReturn:
    log.error(message)
    sys.exit(code)


def _choose(job: Job | dict[str, Job], arguments: list[str]) -> tuple[Job, list[str]]:
    if not isinstance(job, dict):
        return job, arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        raise UserError(f"say what to do: {', '.join(job)} (each has its own --help)")
    if arguments[0] not in job:
        raise unknown("command", arguments[0], job)
    return job[arguments[0]], arguments[1:]


def _parse(job: Callable[..., Any], arguments: list[str]) -> Callable[[], Any]:
    """The job with its options bound; UserError in one line when they do not parse."""
    _check_names(job, arguments)

    @functools.wraps(job)
    def bind(*values: Any, **options: Any) -> Callable[[], Any]:
        return functools.partial(job, *values, **options)

    output = io.StringIO()
    try:
        with contextlib.redirect_stderr(output):
            bound: Callable[[], Any] = tyro.cli(bind, args=arguments)
    except SystemExit as stop:
        if not stop.code:
            raise
        lines = [line.strip("│ ") for line in re.sub(r"\x1b\[[0-9;]*m", "", output.getvalue()).splitlines()]
        rule = next((i for i, line in enumerate(lines) if line.startswith("──")), len(lines))
        raise UserError(" ".join(line for line in lines[1:rule] if line)) from None
    return bound


def _check_names(job: Callable[..., Any], arguments: list[str]) -> None:
    named = [p for p in inspect.signature(job).parameters.values() if p.kind is not p.POSITIONAL_ONLY]
    switches = ["--no-" + p.name.replace("_", "-") for p in named if isinstance(p.default, bool)]
    known = ["--help", *("--" + p.name.replace("_", "-") for p in named)]
    for argument in arguments:
        option = argument.partition("=")[0].replace("_", "-")
        if option.startswith("--") and option not in (*known, *switches):
            near = difflib.get_close_matches(option, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(f"unknown option {option}{hint} (options: {', '.join(known[1:])})")
    for p in named:
        option = "--" + p.name.replace("_", "-")
        if (
            p.annotation is not Names
            and sum(a.partition("=")[0].replace("_", "-") == option for a in arguments) > 1
        ):
            raise UserError(f"{option} is given more than once, of which one would be lost; give it once")
