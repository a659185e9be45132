"""Processes of this machine and the ports they listen on, from /proc; empty on systems without /proc."""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_LISTEN = "0A"  # state of a listening socket in /proc/net/tcp


@dataclass(frozen=True)
class Process:
    """A running process; ``command`` is empty where it cannot be read."""

    pid: int
    parent: int
    user: int
    name: str
    command: tuple[str, ...]


def processes() -> Iterator[Process]:
    """All processes of this machine."""
    for folder in _PROC.glob("[0-9]*"):
        if found := read_process(int(folder.name)):
            yield found


def read_process(pid: int) -> Process | None:
    """A running process by its id; None when it has ended."""
    folder = _PROC / str(pid)
    try:
        status = dict(
            line.split(":\t", 1) for line in (folder / "status").read_text().splitlines() if ":\t" in line
        )
        command = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return None
    # A zombie with more threads has not ended: they still hold its files and sockets open.
    if status["State"].startswith("Z") and status["Threads"] == "1":
        return None
    user = int(status["Uid"].split()[0])
    return Process(pid, int(status["PPid"]), user, status["Name"], tuple(filter(None, command)))


def ancestors(process: Process) -> Iterator[Process]:
    """The parent of a process, its parent, and so on."""
    found = read_process(process.parent)
    while found:
        yield found
        found = read_process(found.parent)


def listener(port: int) -> str:
    """Text that says who listens on a TCP port: the process, else its user, else another process."""
    inodes = dict(_listening_sockets(port))
    sockets = {f"socket:[{inode}]" for inode in inodes}
    for process in processes():
        if not sockets.isdisjoint(_open_files(process.pid)):
            return f"process {process.pid} ({' '.join(process.command)})"
    users = sorted(set(inodes.values()))
    return f"a process of user {', '.join(map(str, users))}" if users else "another process"


def _open_files(pid: int) -> Iterator[str]:
    """The targets of a process's open files; nothing for another user's process."""
    with suppress(OSError):
        for entry in (_PROC / str(pid) / "fd").iterdir():
            with suppress(OSError):  # closed meanwhile
                yield os.readlink(entry)


def _listening_sockets(port: int) -> Iterator[tuple[str, int]]:
    """Inode and user of every socket that listens on a port."""
    for table in ("tcp", "tcp6"):
        try:
            lines = (_PROC / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9], int(fields[7])
