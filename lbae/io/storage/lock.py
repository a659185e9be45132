"""A lock file beside an output: one job writes at a time, and the lock of a dead job is taken over.

The lock is created exclusively, by the operating system or by a conditional write on S3. The lock holder's
heartbeat rewrites it every two seconds. A job that finds a lock watches it for changes, so no clocks are
compared.

A network mount may show the lock as it was up to a minute ago. There the lock is watched for that much
longer, and the first change does not count: it may be an old one that only now becomes visible.
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
    """Hold ``OUT.lock`` while the body runs; yield a function that raises LbaeError if the lock may be lost.

    The lock is lost when another job has taken it over, for example while a laptop slept. It may be lost when
    the storage has not answered for 12 seconds. A lock that has not changed for 12 seconds, plus the delay
    with which the storage shows changes, belongs to a dead job and is taken over.

    Raises:
        UserError: A live job holds the lock, nothing can be written beside ``out``, or the storage cannot
            create files exclusively.
        LbaeError: The storage refuses to write or to remove the lock.
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
                    lost.append(f"may have been taken over, because its lock could not be renewed: {error}")

    def check() -> None:
        if lost:
            raise LbaeError(f"{out} {lost[0]}; run the job again: finished work is kept")

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
    """The job that holds a lock, from the lock's text."""
    return re.sub(r"^beat \d+ of ", "", text)


def _read(lock: Location) -> str | None:
    """The lock's text, which may be empty while the lock is being created; None if there is no lock."""
    try:
        return lock.read_bytes().decode()
    except FileNotFoundError:
        return None


def _remove(lock: Location, holder: str) -> None:
    """Remove this holder's lock; raises LbaeError if it remains, but not if another job has a lock by now."""
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
                f"{out} cannot be locked: its storage let this job create {lock} twice, so two jobs could"
                f" write at once; {FIT_STORAGE}"
            )
        return
    while not lock.create(first):
        dead = _watch(lock, out)
        # Other jobs that found the same dead lock may remove this new one. The job whose lock remains wins.
        if dead is not None and _remove_dead(lock, dead) and lock.create(first):
            time.sleep(_BEAT_S)
            if (_read(lock) or "").endswith(holder):
                return


def _watch(lock: Location, out: str) -> str | None:
    """The text of a dead job's lock, or None if the lock is gone; raises UserError if its job is alive."""
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
    """Remove the lock of a dead job; return False and leave it if another job holds it by now."""
    if not lock.is_local:
        if _read(lock) != dead:
            return False
        _remove(lock, dead)
        return True
    # A rename is atomic, and the renamed file shows what was moved, even if this machine's cache is old.
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
