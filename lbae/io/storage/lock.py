"""A lock beside an output, on any storage: the second job is refused while the first lives, and takes over
when it died.

The lock is a file that is created exclusively (by the operating system, or on S3 by a conditional write) and
rewritten every other second by its holder. Nobody compares clocks: who finds a lock watches whether it
changes.
"""

import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator

from lbae.errors import LbaeError, UserError
from lbae.io.storage.location import Location, resolve

_BEAT_S = 2.0
_PATIENCE_S = 12.0


@contextlib.contextmanager
def locked(out: str) -> Iterator[Callable[[], None]]:
    """Hold ``OUT.lock`` while the body runs.

    Gives a function that raises LbaeError once another job has taken the lock over, as from a laptop that
    slept, or may have since the storage did not answer for 12 seconds. UserError when a job that lives holds
    it; a lock that has not changed for 12 seconds is a dead job's. LbaeError when the storage refuses to
    write or to remove it.
    """
    place = resolve(f"{resolve(out)}.lock")
    holder = f"process {os.getpid()} on {socket.gethostname()}, {uuid.uuid4().hex}"
    _acquire(place, out, holder)
    lost: list[str] = []
    ended = threading.Event()

    def hold() -> None:
        count, until = 0, time.monotonic() + _PATIENCE_S
        while not ended.wait(_BEAT_S) and not lost:
            count += 1
            try:
                found = _read(place)
                if found is None or not found.endswith(holder):
                    lost.append(
                        f"was taken over by {found or 'nobody: its lock was removed'}, since this job stood"
                        f" still"
                    )
                else:
                    place.write_bytes(_beat(holder, count))
                    until = time.monotonic() + _PATIENCE_S
            except (
                Exception
            ) as error:  # whatever a storage raises that does not answer for once: the next beat will do
                if time.monotonic() > until:
                    lost.append(f"may have been taken over, since its lock could not be renewed: {error}")

    def check() -> None:
        if lost:
            raise LbaeError(f"{out} {lost[0]}; what is finished is kept, run the job again")

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    try:
        yield check
    finally:
        ended.set()
        thread.join()
        if not lost:
            _remove(place, holder)


def _beat(holder: str, count: int) -> bytes:
    return f"beat {count} of {holder}".encode()


def _read(place: Location) -> str | None:
    """What the lock says: nothing yet, perhaps, where it is just being made; None when there is none."""
    try:
        return place.read_bytes().decode()
    except FileNotFoundError:
        return None


def _remove(place: Location, said: str) -> None:
    """Remove the lock that ends with these words; LbaeError when it stays. Another job may have made its own
    meanwhile.
    """
    try:
        place.remove()
    except LbaeError:
        if (_read(place) or "").endswith(said):
            raise


def _acquire(place: Location, out: str, holder: str) -> None:
    first = _beat(holder, 0)
    while not place.create(first):
        before = now = _read(place)
        until = time.monotonic() + _PATIENCE_S
        while now == before and now is not None and time.monotonic() < until:
            time.sleep(_BEAT_S / 4)
            now = _read(place)
        if now is None:
            continue
        if now != before:
            raise UserError(f"{out} is being written by {now}; wait for it, or choose another --out")
        _remove(place, now)
        # Others may have found the same dead job, and remove what is created here: whose lock stays holds it.
        if place.create(first):
            time.sleep(_BEAT_S)
            if (_read(place) or "").endswith(holder):
                return
