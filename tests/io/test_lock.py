import threading
import time
from collections.abc import Callable

import pytest

from lbae.errors import LbaeError, TransientStorageError, UserError
from lbae.io.storage import lock
from lbae.io.storage.location import Location, resolve
from lbae.io.storage.lock import locked


@pytest.fixture(params=["local", "s3"])
def out(request, tmp_path, monkeypatch) -> str:
    monkeypatch.setattr(lock, "_BEAT_S", 0.3)
    monkeypatch.setattr(lock, "_PATIENCE_S", 1.5)
    return f"{request.getfixturevalue('s3')}/out" if request.param == "s3" else str(tmp_path / "out")


def test_one_job_at_a_time(out):
    with locked(out) as check_lock:
        with pytest.raises(UserError, match=r"out is being written by process \d+ on"), locked(out):
            pass
        check_lock()
    assert not resolve(f"{out}.lock").exists()
    with locked(out):
        pass


def test_one_of_several_jobs_takes_over_a_dead_jobs_lock(out):
    resolve(f"{out}.lock").write_bytes(b"beat 7 of a job that died")
    held, refused, wait = [], [], threading.Barrier(3)

    def job(name: int) -> None:
        wait.wait()
        try:
            with locked(out) as check_lock:
                held.append(name)
                wait.wait(20)
                check_lock()
        except UserError:
            refused.append(name)
            wait.wait(20)

    threads = [threading.Thread(target=job, args=(name,)) for name in range(2)]
    for thread in threads:
        thread.start()
    wait.wait()
    wait.wait(20)
    for thread in threads:
        thread.join()
    assert len(held) == len(refused) == 1


def test_an_empty_lock_is_waited_for_and_then_taken_over(out):
    place = resolve(f"{out}.lock")
    place.write_bytes(b"")
    writer = threading.Timer(0.5, place.write_bytes, [b"beat 0 of another job"])
    writer.start()
    with pytest.raises(UserError, match="is being written by another job"), locked(out):
        pass
    writer.join()
    place.write_bytes(b"")
    with locked(out) as check_lock:
        check_lock()
    assert not place.exists()


def test_the_lock_counts_as_lost_when_the_storage_no_longer_answers(out, monkeypatch):
    monkeypatch.setattr(lock, "_PATIENCE_S", 4)

    def silent(*_: object) -> None:
        raise TransientStorageError("Connection was closed")

    with locked(out) as check_lock:
        with monkeypatch.context() as patch:
            patch.setattr(Location, "read_bytes", silent)
            time.sleep(1)
            check_lock()
        time.sleep(1.5)
        check_lock()
        monkeypatch.setattr(Location, "read_bytes", silent)
        with pytest.raises(
            LbaeError, match="taken over, because its lock could not be renewed: Connection was"
        ):
            wait_for_the_end(check_lock)
    monkeypatch.undo()


def test_the_lock_counts_as_lost_at_once_when_the_storage_refuses(out, monkeypatch):
    monkeypatch.setattr(lock, "_PATIENCE_S", 600)

    def refused(*_: object) -> None:
        raise LbaeError("Forbidden")

    with locked(out) as check_lock:
        monkeypatch.setattr(Location, "read_bytes", refused)
        with pytest.raises(LbaeError, match="because its lock could not be renewed: Forbidden"):
            wait_for_the_end(check_lock)
    monkeypatch.undo()


def wait_for_the_end(check_lock: Callable[[], None]) -> None:
    while True:
        check_lock()
        time.sleep(0.05)


def test_a_suspended_job_learns_that_its_lock_was_taken_over(out):
    with locked(out) as check_lock:
        resolve(f"{out}.lock").write_bytes(b"beat 1 of another job")
        with pytest.raises(LbaeError, match="was taken over by another job after this job sent no heartbeat"):
            wait_for_the_end(check_lock)
    assert resolve(f"{out}.lock").read_bytes() == b"beat 1 of another job", "the other job's lock stays"


def test_a_job_whose_lock_was_removed_says_so(out):
    with locked(out) as check_lock:
        resolve(f"{out}.lock").remove()
        with pytest.raises(LbaeError, match="out is no longer locked by this job: its lock was removed;"):
            wait_for_the_end(check_lock)
