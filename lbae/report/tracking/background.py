"""Copying to a tracking service in a thread, so that a service that fails never stops or delays a job."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from lbae.errors import as_lbae_error
from lbae.report.tracking.service import Status

_logger = logging.getLogger(__name__)

_POLL_S = 5.0
_RETRY_S = 60.0
_END_S = 30.0  # for what is left when the job ends


class Copy(Protocol):
    """A copy of what a job stores, at a tracking service."""

    def update(self) -> None:
        """Add what the copy lacks."""

    def finish(self, status: Status) -> None:
        """Complete the copy and end its run."""


@contextmanager
def kept_up_to_date(copy: Copy, label: str) -> Iterator[None]:
    """Update a copy every 5 s during the block, and finish it at the end.

    After a failure the next try is a minute later. The first failure is a warning, further ones are silent.
    The end of the block waits for the copy for at most 30 s. ``label`` names the service.
    """
    ended = threading.Event()
    status: Status = "FINISHED"
    warned = False

    def warn(reason: object) -> None:
        nonlocal warned
        if not warned:
            _logger.warning(
                f"tracking by {label} fails ({reason}); the job goes on without it and retries until its end;"
                " the same command, run again, adds what is missing"
            )
        warned = True

    def tried(call: Callable[[], None]) -> bool:
        try:
            call()
        except Exception as error:
            warn(as_lbae_error(error))
            return False
        return True

    def follow() -> None:
        wait_s = 0.0
        while not ended.wait(wait_s):
            wait_s = _POLL_S if tried(copy.update) else _RETRY_S
        tried(lambda: copy.finish(status))

    thread = threading.Thread(target=follow, name="tracking", daemon=True)
    thread.start()
    try:
        yield
    except Exception:
        status = "FAILED"
        raise
    except BaseException:
        status = "KILLED"
        raise
    finally:
        ended.set()
        thread.join(_END_S)
        if thread.is_alive():
            warn(f"no answer within {_END_S:g} s of the job's end")
