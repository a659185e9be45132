"""A lock beside an output, on any storage: a second job is refused while the first lives, and takes over
when it died.

The lock is a file that is created exclusively (by the operating system, or on S3 by a conditional write); its
holder's heartbeat rewrites it every other second. No clocks are compared: whoever finds a lock watches
whether it changes.
"""

import contextlib
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator

from lbae.errors import LbaeError, TransientStorageError, UserError
from lbae.io.storage.location import Location, resolve, usable_output

_BEAT_S = 2.0
_PATIENCE_S = 12.0


@contextlib.contextmanager
def locked(out: str) -> Iterator[Callable[[], None]]:
    """Hold ``OUT.lock`` while the body runs; yield a function that raises LbaeError if it may be lost.

    It is lost when another job took it over, as from a laptop that slept, and may be when the storage was
    silent for 12 seconds. A lock that has not changed for 12 seconds belongs to a dead job.

    Raises:
        UserError: A job that lives holds the lock, or nothing can be written beside ``out``.
        LbaeError: The storage refuses to write or to remove it.
    """
    lock = resolve(f"{resolve(out)}.lock")
    holder = f"process {os.getpid()} on {socket.gethostname()}, {uuid.uuid4().hex}"
    with usable_output(resolve(out)):
        _acquire(lock, out, holder)
    lost: list[str] = []
    ended = threading.Event()

    def send_heartbeats() -> None:
        count, until = 0, time.monotonic() + _PATIENCE_S
        while not ended.wait(_BEAT_S) and not lost:
            count += 1
            try:
                found = _read(lock)
                if found is None or not found.endswith(holder):
                    lost.append(
                        f"was taken over by {_holder_of(found)} after this job sent no heartbeat for"
                        f" {_PATIENCE_S:g} s"
                        if found
                        else "is no longer locked by this job: its lock was removed"
                    )
                else:
                    lock.write_bytes(_heartbeat(holder, count))
                    until = time.monotonic() + _PATIENCE_S
            except Exception as error:
                # Transient storage error: retry at the next heartbeat.
                retried = isinstance(error, TransientStorageError | OSError)
                if not retried or time.monotonic() > until:
                    lost.append(f"may have been taken over, since its lock could not be renewed: {error}")

    def check() -> None:
        if lost:
            raise LbaeError(f"{out} {lost[0]}; what is finished is kept, run the job again")

    thread = threading.Thread(target=send_heartbeats, daemon=True)
    thread.start()
    try:
        yield check
    finally:
        ended.set()
        thread.join()
        if not lost:
            _remove(lock, holder)


def _heartbeat(holder: str, count: int) -> bytes:
    return f"beat {count} of {holder}".encode()


def _holder_of(text: str) -> str:
    """The job that a lock's text names."""
    return re.sub(r"^beat \d+ of ", "", text)


def _read(lock: Location) -> str | None:
    """The lock's text, which is empty while it is created; None when there is no lock."""
    try:
        return lock.read_bytes().decode()
    except FileNotFoundError:
        return None


def _remove(lock: Location, holder: str) -> None:
    """Remove this holder's lock; LbaeError when it stays, but not when another job created its own."""
    try:
        lock.remove()
    except LbaeError:
        if (_read(lock) or "").endswith(holder):
            raise


def _acquire(lock: Location, out: str, holder: str) -> None:
    first = _heartbeat(holder, 0)
    while not lock.create(first):
        before = now = _read(lock)
        until = time.monotonic() + _PATIENCE_S
        while now == before and now is not None and time.monotonic() < until:
            time.sleep(_BEAT_S / 4)
            now = _read(lock)
        if now is None:
            continue
        if now != before:
            raise UserError(
                f"{out} is being written by {_holder_of(now)}; wait for it, or choose another --out"
            )
        _remove(lock, now)
        # Others that found the same dead job may remove this lock: the job whose lock stays holds it.
        if lock.create(first):
            time.sleep(_BEAT_S)
            if (_read(lock) or "").endswith(holder):
                return
