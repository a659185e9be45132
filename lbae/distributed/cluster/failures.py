"""The cause inside an error that passed through Ray."""

from ray.exceptions import OutOfMemoryError, RayTaskError

from lbae.errors import LbaeError


def root_cause(error: BaseException) -> LbaeError:
    """The package's own error inside one that passed through Ray, or a line of the innermost message.

    The last one, of a traceback the error; the first one where hints follow it, as of CUDA and of Ray's watch
    over memory.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, LbaeError) and not isinstance(seen, RayTaskError):
            return seen
        inner = getattr(seen, "cause", None) or getattr(
            seen, "_base_exc", None
        )  # of Ray's tasks, of Ray Train's workers
        error, seen = seen, inner or seen.__cause__
    lines = str(error).strip().splitlines() or [repr(error)]
    hints_follow = isinstance(error, OutOfMemoryError) or lines[0].startswith("CUDA error")
    return LbaeError(lines[0] if hints_follow else lines[-1])
