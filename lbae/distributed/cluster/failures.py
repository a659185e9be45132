"""The original error inside an error that Ray wrapped."""

import re

from ray.exceptions import OutOfMemoryError, RayError

from lbae.errors import LbaeError, UnforeseenError, as_lbae_error

# Ray Data (2.60) appends this to the message of every exception that one of its tasks raises.
_RETRY_HINT = re.compile(r"\s*Failed to [^\n]* after \d+/\d+ attempts \(total backoff .*", re.DOTALL)


def root_cause(error: BaseException) -> LbaeError:
    """The error that a task, an actor or a training worker raised, without Ray's wrappers.

    LbaeErrors are returned as they are, others as :func:`as_lbae_error` converts them. If a process or a node
    died, only Ray's message exists. The result is then an UnforeseenError with its last line, which states
    the error below a traceback; after an out-of-memory error with its first line.
    """
    found = _innermost(error)
    found.args = tuple(_RETRY_HINT.sub("", arg) if isinstance(arg, str) else arg for arg in found.args)
    if not isinstance(found, RayError):
        return as_lbae_error(found)
    lines = str(found).strip().splitlines() or [repr(found)]
    hints_follow = isinstance(found, OutOfMemoryError)
    return UnforeseenError(lines[0] if hints_follow else lines[-1])


def process_died(error: RayError, times: int, remedy: str) -> LbaeError:
    """The error of a task whose process died so often that Ray gave up."""
    return LbaeError(
        f"a worker process died {times} times (out of memory, or an image that crashes the decoder);"
        f" {remedy}: {' '.join(str(error).split())[:300]}"
    )


def _innermost(error: BaseException) -> BaseException:
    """The exception below Ray's wrappers, or the LbaeError that caused it, if any."""
    while inner := getattr(error, "cause", None) or getattr(error, "_base_exc", None) or _wrapped(error):
        error = inner
    own: BaseException | None = error
    while own is not None and not isinstance(own, LbaeError):
        own = own.__cause__
    return own or error


def _wrapped(error: BaseException) -> BaseException | None:
    """The cause of one of Ray's exceptions; None for the empty exception that Ray Data raises from."""
    cause = error.__cause__ if type(error).__module__.startswith("ray.") else None
    return cause if cause and str(cause) else None
