"""The command line of all jobs: ``lbae NAME OPTIONS``, or ``python jobs/NAME.py OPTIONS``.

A job prints its result at the end: a short table on a terminal, otherwise one line of JSON. An error is one
line on standard error. This module belongs to no layer: it may import from all of them.
"""

import ast
import importlib
import inspect
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import lbae
from lbae import log
from lbae.errors import (
    LbaeError,
    UnforeseenError,
    UserError,
    as_lbae_error,
    line_and_exit_code,
    unknown,
)
from lbae.io.machine_facts import versions
from lbae.jobs.arguments import from_words
from lbae.report.summary import print_summary
from lbae.signals import sigterm_interrupts

Job = Callable[..., dict[str, Any] | Iterator[dict[str, Any]]]

# In the order that `lbae --help` lists them: a pipeline, then the uses of its results.
JOBS = {
    "demo": "lbae.jobs.demo",
    "ingest": "lbae.jobs.build.ingest",
    "train": "lbae.jobs.build.train",
    "encode": "lbae.jobs.build.encode",
    "reduce": "lbae.jobs.build.reduce",
    "fit": "lbae.jobs.build.fit",
    "index": "lbae.jobs.build.index",
    "evaluate": "lbae.jobs.build.evaluate",
    "pipeline": "lbae.jobs.pipeline",
    "sample": "lbae.jobs.use.sample",
    "reconstruct": "lbae.jobs.use.reconstruct",
    "interpolate": "lbae.jobs.use.interpolate",
    "vary": "lbae.jobs.use.vary",
    "edit": "lbae.jobs.use.edit",
    "search": "lbae.jobs.use.search",
    "serve": "lbae.jobs.use.serve",
    "push": "lbae.jobs.use.push",
    "show": "lbae.jobs.inspect.show",
    "moments": "lbae.jobs.inspect.moments",
    "losses": "lbae.jobs.inspect.losses",
    "export": "lbae.jobs.inspect.export",
    "doctor": "lbae.jobs.inspect.doctor",
}
Command = Job | str | dict[str, Job] | dict[str, str]
_HELP = ("-h", "--help")
_JSON = "--json"
_ALWAYS = "Every job takes --json: print the result as one line of JSON, even on a terminal."
_logger = logging.getLogger(__name__)


def main(name: str | None = None) -> None:
    """Run the named job, or without a name the job that the command line names first, and exit."""
    run(JOBS) if name is None else run(JOBS[name], f"lbae {name}")


def load_job(module: str) -> Job | dict[str, Job]:
    """Return the function named as its module, or a dict of subcommands by name."""
    job: Job | dict[str, Job] = getattr(importlib.import_module(module), module.rpartition(".")[2])
    return job


def run(job: Command, prog: str = "lbae") -> None:
    """Call the job with the command line's options, print its result, and exit.

    Exit codes: 0 for success, 1 if the work failed (or a result has ``"ok": false``), 2 for a mistake in the
    request, 130 if interrupted, 143 if stopped by SIGTERM.

    Args:
        job: A function, the name of its module, or a dict of either by name. With a dict, the first word of
            the command line chooses.
        prog: The name of the command in its help.
    """
    with log.on_stderr(), sigterm_interrupts() as termination:
        try:
            log.form()
            words = [word for word in sys.argv[1:] if word != _JSON]
            ok = _run(job, words, prog, _JSON in sys.argv or not sys.stdout.isatty())
        except BrokenPipeError:  # the reader of the output, such as `head`, has closed it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except Exception as error:
            if isinstance(as_lbae_error(error), UnforeseenError) and not isinstance(error, LbaeError):
                _logger.error("traceback, to report this error with:", exc_info=error)
            _fail(*line_and_exit_code(error))
        except KeyboardInterrupt:
            _fail(*(("stopped", 143) if termination.requested else ("interrupted", 130)))
    if not ok:
        sys.exit(1)


def _run(job: Command, words: list[str], prog: str, as_json: bool) -> bool:
    """Run the command that the words name; False if a result has ``"ok": false``."""
    if words == ["--version"]:
        _show(versions(), prog, {}, as_json)
        return True
    if isinstance(job, str):
        return _run(load_job(job), words, prog, as_json)
    if isinstance(job, dict):
        if not words:
            raise UserError(f"a command is missing; allowed: {', '.join(job)} (each has its own --help)")
        if words[0] in _HELP:
            print(_overview(job, prog))
            return True
        if words[0] not in job:
            raise unknown("command", words[0], job)
        return _run(job[words[0]], words[1:], f"{prog} {words[0]}", as_json)
    if set(_HELP) & set(words):
        _print_help(job, prog)
        return True
    bound = from_words(job, words)
    results = bound()
    ok = True
    for result in [results] if isinstance(results, dict) else results:
        _show(result, prog, bound.keywords, as_json)
        ok = ok and result.get("ok", True)
    return ok


def _show(result: dict[str, Any], prog: str, options: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(result), flush=True)
    else:
        print_summary(prog.removeprefix("lbae "), result, options)


def _fail(message: str, code: int) -> NoReturn:
    _logger.error(message)
    sys.exit(code)


def _overview(jobs: dict[str, Any], prog: str) -> str:
    """The text of ``--help`` for several jobs, one line per job, without importing them."""
    width = max(map(len, jobs)) + 2
    lines = [f"  {name:{width}}{_purpose(job)}" for name, job in jobs.items()]
    usage = f"usage: {prog} JOB OPTIONS, or {prog} JOB --help for the options of a job"
    return "\n".join([usage, "", *lines, "", f"{prog} --version prints versions. {_ALWAYS}"])


def _purpose(job: Job | str) -> str:
    """The first line of a job's docstring."""
    if isinstance(job, str):
        file = Path(lbae.__file__).parent.parent / f"{job.replace('.', '/')}.py"
        text = ast.get_docstring(ast.parse(file.read_text()))
    else:
        text = inspect.getdoc(job)
    return (text or "").partition("\n")[0]


def _print_help(job: Job, prog: str) -> None:
    import tyro  # only help needs it

    text = (inspect.getdoc(job) or "").partition("\n\nArgs:")[0]
    try:
        tyro.cli(
            job,
            args=["--help"],
            prog=prog,
            description=f"{text}\n\n{_ALWAYS}",
            config=[tyro.conf.UseAppendAction],
        )
    except SystemExit:  # tyro exits after printing
        return
