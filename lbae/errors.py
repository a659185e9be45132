"""The exceptions of the package, and any other exception as one of them.

=========================  =========  ==============================  =======================
error                      exit code  meaning                         a retry
=========================  =========  ==============================  =======================
``LbaeError``              1          the work failed                 would fail the same way
``TransientStorageError``  1          the storage did not answer      may succeed
``UnforeseenError``        1          an exception nobody expected    may succeed
``UserError``              2          the request cannot be met       would fail the same way
``OverwriteNeeded``        2          ``--overwrite`` is missing      succeeds with it
=========================  =========  ==============================  =======================
"""

import difflib
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from lbae.transient_errors import is_transient

_MOST_CHARACTERS = 600  # of a message from another library


class LbaeError(Exception):
    """The work failed, and a retry would fail the same way: exit code 1."""

    exit_code = 1
    retry_may_succeed = False


class TransientStorageError(LbaeError):
    """The storage did not answer or asked for fewer requests. Training workers are restarted after it."""

    retry_may_succeed = True


class UnforeseenError(LbaeError):
    """An exception nobody expected: its type, its message and what was worked on.

    It may come from a lost process or GPU, so training workers are restarted after it.
    """

    retry_may_succeed = True


class UserError(LbaeError):
    """The request cannot be carried out as it was put: exit code 2."""

    exit_code = 2


class UnusableAttribute(UserError):
    """An attribute of the request is known, but nothing can be done with it; ``attribute`` is its name."""

    def __init__(self, message: str, attribute: str = "") -> None:
        super().__init__(message)  # an exception is unpickled from its message, then gets its attributes
        self.attribute = attribute


class OverwriteNeeded(UserError):
    """The output holds an artifact built from different inputs or options; ``--overwrite`` replaces it."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not one of ``known``, with the nearest one and the whole list."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    if "," in name:
        hint = "; names are given one by one, not separated by commas"
    return UserError(f"unknown {kind} {name!r}{hint} (known: {', '.join(known) or 'none'})")


@contextmanager
def working_on(what: str) -> Iterator[None]:
    """Note on any exception of the body what was worked on, such as ``encoding a.parquet, rows 0-9``.

    The note travels with the exception, also through Ray, and :func:`as_lbae_error` shows it. The package's
    own errors get none: their messages name what they are about.
    """
    try:
        yield
    except LbaeError:
        raise
    except Exception as error:
        error.add_note(f"while {what}")
        raise


def as_lbae_error(error: BaseException) -> LbaeError:
    """Any exception as one of the package's: its own stay, others become their type, message and notes.

    An OSError with a number needs no type: its message says what failed, on which file.
    """
    if isinstance(error, LbaeError):
        return error
    lines = str(error).strip().splitlines()
    # The lines after the first of a CUDA error are advice for whoever debugs a kernel.
    message = lines[0] if lines and lines[0].startswith("CUDA error") else " ".join(" ".join(lines).split())
    numbered = isinstance(error, OSError) and error.errno is not None
    text = message if numbered else f"{type(error).__name__}: {message}".removesuffix(": ")
    text = textwrap.shorten(text, _MOST_CHARACTERS, placeholder=" ...")
    if notes := getattr(error, "__notes__", ()):
        text += f" ({', '.join(notes)})"
    if is_transient(error):
        return TransientStorageError(text)
    return LbaeError(text) if numbered else UnforeseenError(text)


def line_and_exit_code(error: BaseException) -> tuple[str, int]:
    """The line that a job ends with after this exception, and its exit code."""
    own = as_lbae_error(error)
    return " ".join(str(own).split()), own.exit_code
