"""A lock beside an output, on any storage: a second job is refused while the first lives, and takes over
when it died.

The lock is a file that is created exclusively (by the operating system, or on S3 by a conditional write); its
holder's heartbeat rewrites it every other second. No clocks are compared: whoever finds a lock watches
whether it changes. A network mount may show a lock as it was up to a minute ago, so there a lock is watched
for that much longer, and its first change, which may have been made long before, does not count.
"""

import contextlib
import os
import posixpath
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator

from lbae.errors import LbaeError, TransientStorageError, UserError
from lbae.io.storage.location import Location, resolve, usable_output
from lbae.io.storage.visibility import FIT_STORAGE, delay_s

_BEAT_S = 2.0
_PATIENCE_S = 12.0


@contextlib.contextmanager
def locked(out: str) -> Iterator[Callable[[], None]]:
    """Hold ``OUT.lock`` while the body runs; yield a function that raises LbaeError if it may be lost.

    It is lost when another job took it over, as from a laptop that slept, and may be when the storage was
    silent for 12 seconds. A lock that has not changed for 12 seconds, and for as long again as the storage
    may be late to show a change, belongs to a dead job.

    Raises:
        UserError: A job that lives holds the lock, nothing can be written beside ``out``, or the storage
            cannot create a file exclusively.
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
    if lock.create(first):
        if lock.create(first):
            lock.remove()
            raise UserError(
                f"{out} cannot be locked: its storage creates {lock} twice, so two jobs could write at once;"
                f" {FIT_STORAGE}"
            )
        return
    while not lock.create(first):
        dead = _watch(lock, out)
        # Others that found the same dead job may remove this lock: the job whose lock stays holds it.
        if dead is not None and _remove_dead(lock, dead) and lock.create(first):
            time.sleep(_BEAT_S)
            if (_read(lock) or "").endswith(holder):
                return


def _watch(lock: Location, out: str) -> str | None:
    """The text of a lock whose job is dead; None when the lock is gone; UserError when its job lives."""
    delay = delay_s(lock)
    seen, changes, needed = _read(lock), 0, 2 if delay else 1
    until = time.monotonic() + _PATIENCE_S + delay
    while seen is not None and time.monotonic() < until:
        time.sleep(_BEAT_S / 4)
        now = _read(lock)
        if now not in (seen, None):
            changes, until = changes + 1, time.monotonic() + _PATIENCE_S + delay
        if now is not None and changes == needed:
            raise UserError(
                f"{out} is being written by {_holder_of(now)}; wait for it, or choose another --out"
            )
        seen = now
    return seen


def _remove_dead(lock: Location, dead: str) -> bool:
    """Remove the lock of a dead job; return False, and leave it, if it is by now another job's."""
    if not lock.is_local:
        if _read(lock) != dead:
            return False
        _remove(lock, dead)
        return True
    # A rename is atomic and shows what it moved, however old the state that this machine has seen.
    folder, name = posixpath.split(lock.path)
    aside = Location(lock.fs, posixpath.join(folder, f".{name}.{uuid.uuid4().hex}.tmp"))
    try:
        os.rename(lock.path, aside.path)
    except FileNotFoundError:
        return False
    if _read(aside) != dead:
        os.rename(aside.path, lock.path)
        return False
    aside.remove()
    return True
