"""A storage that shows other machines' writes only after a delay, as NFS and FUSE mounts do.

A machine caches each answer (a listing, a look-up, a file's content) for ``DELAY_S``, or until it changes
that folder itself. Exclusive creation and rename go to the server and are never late.
"""

import contextlib
import contextvars
import errno
import os
import posixpath
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lbae.core.latents.packing import pack
from lbae.errors import LbaeError, OverwriteNeeded, UserError
from lbae.io.artifacts.ingest_parts import ingest_part
from lbae.io.artifacts.latent_parts import (
    PartPlan,
    finished_part,
    finished_parts,
    publish_latents,
    write_latent_part,
)
from lbae.io.artifacts.latent_table import latent_rows
from lbae.io.artifacts.manifest import MANIFEST
from lbae.io.artifacts.output import Output
from lbae.io.artifacts.written_part import Part
from lbae.io.images import encode_png
from lbae.io.sources.decode import QUARANTINE_SCHEMA
from lbae.io.sources.plan import plan
from lbae.io.storage import lock, visibility
from lbae.io.storage.location import Location, resolve
from lbae.io.storage.lock import locked

DELAY_S = 0.8
_machine: contextvars.ContextVar["Machine | None"] = contextvars.ContextVar("machine", default=None)


class Machine:
    """The cached answers of one machine, by question and path."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str, str], tuple[float, Any]] = {}

    def answer(self, question: str, path: str, ask: Callable[[], Any]) -> Any:
        asked, found = self.seen.get((question, path), (-DELAY_S, None))
        if time.monotonic() - asked >= DELAY_S:
            try:
                found = ask()
            except FileNotFoundError as error:
                found = error
            self.seen[question, path] = time.monotonic(), found
        if isinstance(found, FileNotFoundError):
            raise found
        return found

    def forget(self, folder: str) -> None:
        for question, path in list(self.seen):
            if folder in (path, posixpath.dirname(path)):
                self.seen.pop((question, path), None)

    @contextlib.contextmanager
    def here(self) -> Iterator[None]:
        """Run the body on this machine."""
        token = _machine.set(self)
        yield
        _machine.reset(token)

    def start(self, call: Callable[[], None]) -> threading.Thread:
        with self.here():
            thread = threading.Thread(target=contextvars.copy_context().run, args=(call,))
        thread.start()
        return thread


@pytest.fixture(autouse=True)
def delayed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_kind", "names", "files", "read_bytes"):
        monkeypatch.setattr(Location, name, _late(name, getattr(Location, name)))
    for name in ("create", "write_bytes", "remove", "refresh"):
        monkeypatch.setattr(Location, name, _changing(name, getattr(Location, name)))
    opened = Location.open

    def open_late(self: Location) -> Any:
        if self.exists():
            return opened(self)
        raise FileNotFoundError(errno.ENOENT, "not seen yet", self.path)

    monkeypatch.setattr(Location, "open", open_late)
    monkeypatch.setattr(visibility, "delay_s", lambda _: 1.5 * DELAY_S)
    monkeypatch.setattr(lock, "delay_s", lambda _: 1.5 * DELAY_S)
    monkeypatch.setattr(visibility, "_POLL_S", 0.1)
    monkeypatch.setattr(lock, "_BEAT_S", 0.1)
    monkeypatch.setattr(lock, "_PATIENCE_S", 0.4)
    started = threading.Thread.start

    def start(thread: threading.Thread) -> None:  # a job's heartbeat runs on the job's machine
        run, context = thread.run, contextvars.copy_context()
        thread.run = lambda: context.copy().run(run)  # type: ignore[method-assign]
        started(thread)

    monkeypatch.setattr(threading.Thread, "start", start)


def _late(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def ask(self: Location, **options: Any) -> Any:
        machine = _machine.get()
        call = lambda: real(self, **options)  # noqa: E731
        return machine.answer(f"{name} {options}", self.path, call) if machine else call()

    return ask


def _changing(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def change(self: Location, *data: bytes) -> Any:
        result = real(self, *data)
        if machine := _machine.get():
            machine.forget(self.path if name == "refresh" else posixpath.dirname(self.path))
        return result

    return change


def write_part(out: str, plan: PartPlan, good: int) -> Part:
    """Write a part, all of whose rows but ``good`` are bad."""
    bad = plan.rows - good
    keys = pa.array([f"{plan.name}-{i}" for i in range(good)])
    rows = latent_rows(keys, pack(np.ones((good, 11), np.int8)), pa.table({"label": [0] * good}), 11, "m")
    wrong = {"key": [f"{plan.name}-bad-{i}" for i in range(bad)], "path": ["p"] * bad, "error": ["e"] * bad}
    quarantine = pa.Table.from_pydict(wrong, schema=QUARANTINE_SCHEMA)
    return write_latent_part(out, plan, [rows], quarantine, ("cpu", "float32"))


def test_parts_that_are_listed_late_are_found_by_opening_them(tmp_path):
    (tmp_path / "data").mkdir()
    for name in "abc":
        (tmp_path / "data" / f"{name}.png").touch()
    (source,) = plan(str(tmp_path / "data")).shards
    plans = [PartPlan(name=f"part-{i}.parquet", shards=(source,)) for i in range(3)]
    out, driver, actor = str(tmp_path / "out"), Machine(), Machine()
    first = write_part(out, plans[0], 2)
    with driver.here():
        assert finished_parts(out, plans) == {plans[0].name: first}
    second = write_part(out, plans[1], 3)
    with driver.here():
        assert finished_parts(out, plans) == {plans[0].name: first}, "the listing is late"
    with actor.here():
        assert [finished_part(out, plan) for plan in plans] == [first, second, None]
    with driver.here():
        os.unlink(f"{out}/{plans[0].data}")  # by another machine
        assert finished_parts(out, plans) == {}, "the listing still shows the part that is gone"
    with actor.here():
        write_part(out, plans[2], 3)
        output = Output(out, "latent table", parents={"model": "m"}, config={"latent_dim": 11})
        with pytest.raises(LbaeError, match=r"out does not show .*: data/part-0.parquet; use an object"):
            publish_latents(output, [first, second], None, {})


def test_a_deleted_part_that_the_machine_still_sees_is_written_again(tmp_path):
    (tmp_path / "data").mkdir()
    for name in "ab":
        (tmp_path / "data" / f"{name}.png").write_bytes(encode_png(np.zeros((8, 8, 1), np.uint8)))
    out, shards, machine = str(tmp_path / "out"), plan(str(tmp_path / "data")).shards, Machine()
    with machine.here():
        first = ingest_part(out, 0, shards)
        part = resolve(out) / first.files[0]
        assert part.exists()
        os.unlink(part.path)  # by another machine
        assert part.exists(), "the cached look-up is out of date"
        assert ingest_part(out, 0, shards) == first
    with pytest.raises(
        LbaeError, match=r"part-00000.parquet and its quarantine hold 2 rows, but 4 were planned"
    ):
        ingest_part(out, 0, shards * 2)


def test_leftovers_that_are_listed_late_are_removed_before_publishing(tmp_path):
    target = Output(str(tmp_path / "out"), "table", parents={}, config={})
    driver, folder = Machine(), tmp_path / "out" / "data"
    with driver.here():
        target.begin()
        folder.mkdir()
        assert resolve(str(folder)).files(temporary=True) == []
        for name in ("stale", "new"):
            (folder / name).touch()  # by tasks on other machines
        target.publish(fingerprint="f", rows=1, files=["data/new"], result={})
    assert os.listdir(folder) == ["new"]


def test_a_manifest_never_names_a_missing_file(tmp_path):
    target = Output(str(tmp_path / "out"), "table", parents={}, config={})
    target.begin()
    with pytest.raises(LbaeError, match=r"out does not show .*: data/new; use an object store"):
        target.publish(fingerprint="f", rows=1, files=["data/new"], result={})
    assert not (tmp_path / "out" / MANIFEST).exists()


def test_an_artifact_that_another_machine_just_published_is_not_cleared(tmp_path):
    first = Output(str(tmp_path / "out"), "table", parents={}, config={"seed": 0})
    other = Machine()
    first.begin()
    with other.here():
        assert not (resolve(first.uri) / MANIFEST).exists()
    (tmp_path / "out" / "weights").touch()
    first.publish(fingerprint="f", rows=1, files=["weights"], result={})
    with other.here(), pytest.raises(OverwriteNeeded, match=r"seed was 0, is now 1"):
        Output(first.uri, "table", parents={}, config={"seed": 1}).begin()
    assert (tmp_path / "out" / "weights").exists()


def test_a_lock_whose_heartbeats_are_seen_late_is_not_taken_over(tmp_path):
    out = str(tmp_path / "out")
    with Machine().here(), locked(out) as check_lock:
        with Machine().here(), pytest.raises(UserError, match="is being written by process"), locked(out):
            pass
        check_lock()


def test_a_dead_jobs_lock_is_taken_over_although_its_last_heartbeat_is_seen_late(tmp_path):
    out, machine = str(tmp_path / "out"), Machine()
    place = resolve(f"{out}.lock")
    place.write_bytes(b"beat 5 of a job")
    with machine.here():
        place.read_bytes()
    place.write_bytes(b"beat 7 of a job")
    with machine.here(), locked(out) as check_lock:
        check_lock()
    assert os.listdir(tmp_path) == []


def test_a_job_that_still_sees_a_dead_lock_does_not_remove_the_lock_that_replaced_it(tmp_path):
    place = resolve(str(tmp_path / "out.lock"))
    place.write_bytes(b"beat 7 of a dead job")
    late = Machine()
    with late.here():
        dead = place.read_bytes().decode()
    place.write_bytes(b"beat 0 of another job")
    with late.here():
        assert place.read_bytes().decode() == dead, "the read is late"
        assert not lock._remove_dead(place, dead)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [
        ("out.lock", b"beat 0 of another job")
    ]


def test_a_storage_without_exclusive_creation_is_refused(tmp_path, monkeypatch):
    def create(self: Location, data: bytes) -> bool:
        self.write_bytes(data)
        return True

    monkeypatch.setattr(Location, "create", create)
    with (
        pytest.raises(UserError, match=r"let this job create .*out.lock twice.*NFSv4 mounted with noac"),
        locked(str(tmp_path / "out")),
    ):
        pass
    assert os.listdir(tmp_path) == []


def test_files_that_nfs_keeps_while_they_are_open_do_not_fail_a_job(tmp_path, monkeypatch):
    target = Output(str(tmp_path / "out"), "table", parents={}, config={})
    target.begin()
    (tmp_path / "out" / "data" / "deep").mkdir(parents=True)
    kept = {"data/.nfs01", "data/deep/.nfs02", ".nfs03"}
    for name in (*kept, "data/part", "data/deep/part"):
        (tmp_path / "out" / name).touch()
    for call in ("remove", "unlink"):
        monkeypatch.setattr(os, call, _busy(getattr(os, call)))
    target.begin()
    left = {
        str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()
    }
    assert left == {*kept, ".unfinished"}
    monkeypatch.undo()
    assert resolve(str(tmp_path / "out" / "data" / "deep")).is_empty_folder()


def test_other_files_that_cannot_be_removed_end_the_job(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    for name in (".nfs01", "part"):
        (tmp_path / "out" / name).touch()
    real = os.unlink

    def unlink(path: Any, **options: Any) -> None:
        if posixpath.basename(str(path)) == "part":
            raise PermissionError(errno.EACCES, "denied", path)
        real(path, **options)

    monkeypatch.setattr(os, "unlink", unlink)
    with pytest.raises(PermissionError, match="denied"):
        resolve(str(tmp_path / "out")).remove()


def _busy(real: Callable[..., None]) -> Callable[..., None]:
    def remove(path: Any, **options: Any) -> None:
        if posixpath.basename(str(path)).startswith(".nfs"):
            raise OSError(errno.EBUSY, "Device or resource busy", path)
        real(path, **options)

    return remove


@pytest.mark.parametrize(
    ("mount", "delay"),
    [
        ("- ext4 /dev/sda rw", 0),
        ("master:1 - overlay overlay rw", 0),
        ("- nfs4 host:/x rw,vers=4.2,proto=tcp", 60),
        ("shared:2 - nfs4 host:/x rw,noac", 0),
        ("- nfs host:/x rw,acregmin=600,acregmax=600,acdirmin=600,acdirmax=600", 600),
        ("- nfs4 host:/x rw,acregmax=1,acdirmax=1", 1),
        ("- fuse.gcsfuse bucket rw", 60),
    ],
)
def test_the_delay_comes_from_the_mount_options(tmp_path, monkeypatch, mount, delay):
    monkeypatch.undo()
    folder = tmp_path / "a b"
    point = str(folder).replace(" ", "\\040")
    mounts = SimpleNamespace(
        exists=lambda: True,
        read_text=lambda: f"22 1 0:1 / / rw - ext4 /dev/sda rw\n40 22 0:9 / {point} rw {mount}\n",
    )
    monkeypatch.setattr(visibility, "_MOUNTS", mounts)
    assert visibility.delay_s(resolve(str(folder / "out"))) == delay
    assert visibility.delay_s(resolve(str(tmp_path / "out"))) == 0
    assert visibility.delay_s(resolve("memory://x")) == 0
