"""The cause inside an error that passed through Ray."""

import re

from ray.exceptions import OutOfMemoryError, RayError

from lbae.errors import LbaeError, UnforeseenError, as_lbae_error

# What Ray Data (2.60) appends to the message of whatever a task of its own raises.
_RETRY_HINT = re.compile(r"\s*Failed to [^\n]* after \d+/\d+ attempts \(total backoff .*", re.DOTALL)


def root_cause(error: BaseException) -> LbaeError:
    """The error that a task, an actor or a training worker raised, without what Ray put around it.

    The package's own errors come out as themselves, others by their type and message. Where a process or a
    node died, Ray's message is all there is: its last line, which is that of a traceback.
    """
    found = _innermost(error)
    found.args = tuple(_RETRY_HINT.sub("", arg) if isinstance(arg, str) else arg for arg in found.args)
    if not isinstance(found, RayError):
        return as_lbae_error(found)
    lines = str(found).strip().splitlines() or [repr(found)]
    hints_follow = isinstance(found, OutOfMemoryError)
    return UnforeseenError(lines[0] if hints_follow else lines[-1])


def _innermost(error: BaseException) -> BaseException:
    """The exception below Ray's wrappers; the package's own error, if one caused it."""
    while inner := getattr(error, "cause", None) or getattr(error, "_base_exc", None) or _wrapped(error):
        error = inner
    own: BaseException | None = error
    while own is not None and not isinstance(own, LbaeError):
        own = own.__cause__
    return own or error


def _wrapped(error: BaseException) -> BaseException | None:
    """What one of Ray's exceptions was raised from, but for the empty one that Ray Data puts there."""
    cause = error.__cause__ if type(error).__module__.startswith("ray.") else None
    return cause if cause and str(cause) else None
