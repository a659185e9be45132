"""The exceptions of the package, and the conversion of any other exception to one of them.

=========================  =========  ==============================  =======================
error                      exit code  meaning                         a retry
=========================  =========  ==============================  =======================
``LbaeError``              1          the work failed                 would fail the same way
``TransientStorageError``  1          a transient storage failure     may succeed
``UnforeseenError``        1          any other exception             may succeed
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
    """The storage did not answer or throttled requests. Training workers are restarted after it."""

    retry_may_succeed = True


class UnforeseenError(LbaeError):
    """Any exception of other code: its type, its message and what was worked on.

    Its cause may be a lost process or GPU, so training workers are restarted after it.
    """

    retry_may_succeed = True


class UserError(LbaeError):
    """The request is invalid or cannot be met: exit code 2."""

    exit_code = 2


class UnusableAttribute(UserError):
    """A known attribute cannot be used for this request; ``attribute`` is its name."""

    def __init__(self, message: str, attribute: str = "") -> None:
        super().__init__(message)  # unpickling passes the message alone, then sets attributes
        self.attribute = attribute


class OverwriteNeeded(UserError):
    """The output holds an artifact built from different inputs or options; ``--overwrite`` replaces it."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not in ``known``: it suggests the nearest name and lists all."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    if "," in name:
        hint = "; give one name at a time, not a list with commas"
    return UserError(f"unknown {kind} {name!r}{hint} (known: {', '.join(known) or 'none'})")


@contextmanager
def working_on(what: str) -> Iterator[None]:
    """Note on any exception of the body what was worked on, such as ``encoding a.parquet, rows 0-9``.

    The note stays on the exception, even through Ray, and :func:`as_lbae_error` shows it. The package's own
    errors get none, because their messages name their subject.
    """
    try:
        yield
    except LbaeError:
        raise
    except Exception as error:
        error.add_note(f"while {what}")
        raise


def as_lbae_error(error: BaseException) -> LbaeError:
    """Convert any exception to one of the package's; those are returned unchanged.

    The message is the exception's type, message and notes. An OSError with an errno shows no type, because
    its message says what failed, and on which file.
    """
    if isinstance(error, LbaeError):
        return error
    lines = str(error).strip().splitlines()
    # After its first line, a CUDA error gives advice on debugging kernels.
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
    """The last line of a job that fails with this exception, and its exit code."""
    own = as_lbae_error(error)
    return printable(" ".join(str(own).split())), own.exit_code


def printable(text: str) -> str:
    """The text with control characters escaped, because a stranger's text could steer the terminal."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
