"""Facts and checks about this machine, without Ray: versions, memory, GPUs, cluster token, storage access."""

import importlib.metadata
import os
import platform
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.version import Version

import lbae
from lbae.io.artifacts.manifest import FORMAT_VERSION
from lbae.io.storage.digests import digest
from lbae.io.storage.location import resolve

STORE_BYTES = 2 * 2**30
"""Shared memory of a local Ray's object store."""

_MEMORY_BYTES = STORE_BYTES + 2 * 2**30  # the object store, and a few workers that have imported torch
_SHOWN = ("ray", "torch", "torchvision", "numpy", "scipy", "pyarrow", "safetensors")
_PACKAGE = Path(lbae.__file__).parent


@dataclass(frozen=True, kw_only=True)
class Check:
    """The result of one check; ``note`` says what was found and, unless ``ok``, how to fix it."""

    name: str
    ok: bool
    note: str


def versions() -> dict[str, Any]:
    """Versions that results depend on, and fingerprints of this package's files and of all packages."""
    installed = {dist.name.lower(): dist.version for dist in importlib.metadata.distributions()}
    return {
        "lbae": lbae.__version__,
        "python": platform.python_version(),
        "artifact_format": FORMAT_VERSION,
        "packages": {name: installed[name] for name in _SHOWN if name in installed},
        "files": _own_files(),
        "installed": digest(*(f"{name}=={installed[name]}".encode() for name in sorted(installed))),
    }


def image_facts() -> dict[str, str]:
    """What all nodes of a cluster must have alike: this package's files, and the versions of libraries.

    Local versions are left out: torch for CPUs and for CUDA may run side by side.
    """
    libraries = {name: Version(importlib.metadata.version(name)).public for name in _SHOWN}
    return {"lbae": f"{lbae.__version__} (files {_own_files()[:8]})", **libraries}


def image_differences(wanted: dict[str, str]) -> list[str]:
    """What this process has otherwise than another whose :func:`image_facts` are ``wanted``."""
    return [
        f"{name} {found} where the job has {wanted[name]}"
        for name, found in image_facts().items()
        if found != wanted[name]
    ]


def _own_files() -> str:
    """Digest of the files of this package."""
    own = sorted(path for path in _PACKAGE.rglob("*") if path.suffix in (".py", ".html", ".js", ".css"))
    return digest(
        *(part for path in own for part in (str(path.relative_to(_PACKAGE)).encode(), path.read_bytes()))
    )


def checks() -> Iterator[Check]:
    """Yield the checks of this machine that need no cluster."""
    yield _packages()
    yield _token()
    free = shared_memory_bytes()
    if free is not None:
        note = f"{_gib(free)} free" + (
            f"; a local Ray needs {_gib(STORE_BYTES)}: `--shm-size=3g`" if free < STORE_BYTES else ""
        )
        yield Check(name="/dev/shm", ok=free >= STORE_BYTES, note=note)
    memory = _memory_bytes()
    note = _gib(memory) + (
        f"; a local Ray and its workers need {_gib(_MEMORY_BYTES)}" if memory < _MEMORY_BYTES else ""
    )
    yield Check(name="memory", ok=memory >= _MEMORY_BYTES, note=note)
    yield _gpu()


def shared_memory_bytes() -> int | None:
    """Free bytes in /dev/shm, where Ray keeps objects; None if there is no /dev/shm."""
    try:
        found = os.statvfs("/dev/shm")
    except FileNotFoundError:
        return None
    return found.f_bavail * found.f_frsize


def differences(lock: str) -> list[str]:
    """Installed packages whose version differs from the pins in ``lock``, the text of a requirements file.

    The file may have hashes, as uv and pip-tools write them. Packages that are not installed are ignored.
    """
    found = []
    for line in lock.splitlines():
        if not line or line.startswith(("#", " ")):
            continue
        pinned = Requirement(line.rstrip(" \\"))  # a line with hashes is continued
        if pinned.marker is None or pinned.marker.evaluate():
            try:
                version = Version(importlib.metadata.version(pinned.name))
            except importlib.metadata.PackageNotFoundError:  # such as test tools on a cluster's nodes
                continue
            # The public version: torch's "+cpu" is not a different version.
            if not pinned.specifier.contains(version.public, prereleases=True):
                found.append(
                    f"{pinned.name} {version} is installed, but the lock file pins {pinned.specifier}"
                )
    return found


def storage(uri: str) -> Check:
    """Check that this process can write, read and delete in a folder."""
    place = resolve(uri) / f".lbae-{uuid.uuid4().hex}"
    try:
        place.write_bytes(b"x")
        place.read_bytes()
        place.remove()
    except Exception as error:  # filesystem libraries share no base class
        mend = "check the path, the keys and AWS_ENDPOINT_URL"
        return Check(name=f"storage {uri}", ok=False, note=f"cannot be used from here ({error}); {mend}")
    return Check(name=f"storage {uri}", ok=True, note="can be written, read and deleted from here")


def _packages() -> Check:
    facts = versions()
    note = f"Python {facts['python']}, " + ", ".join(
        f"{name} {version}" for name, version in facts["packages"].items()
    )
    lock = _PACKAGE.parent / "requirements.lock"
    wrong = differences(lock.read_text()) if lock.exists() else []
    note += f"; {'; '.join(wrong)}: `uv pip sync requirements.lock`" if wrong else ""
    return Check(name="packages", ok=not wrong, note=note)


def _token() -> Check:
    """Ray's token comes from RAY_AUTH_TOKEN, the file at RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token."""
    mode = os.environ.get("RAY_AUTH_MODE", "")
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    there = bool(os.environ.get("RAY_AUTH_TOKEN")) or path.exists()
    if mode == "disabled":
        return Check(
            name="token",
            ok=True,
            note="RAY_AUTH_MODE=disabled: anyone who can reach the cluster's ports can run code on it",
        )
    if there:
        return Check(
            name="token",
            ok=True,
            note=f"found; RAY_AUTH_MODE is {mode or 'not set, but must be token for `ray job submit`'}",
        )
    mend = "`ray get-auth-token --generate` makes one; every node and client needs the same token"
    return Check(
        name="token", ok=mode != "token", note=f"none at {path}, RAY_AUTH_MODE is {mode or 'not set'}; {mend}"
    )


def _gpu() -> Check:
    import torch  # imported here: it takes seconds, and every job that connects to Ray imports this module

    count = torch.cuda.device_count()
    if count or not Path("/dev/nvidia0").exists():
        return Check(name="GPUs here", ok=True, note=str(count))
    mend = f"torch {torch.__version__} cannot use it: install a torch for CUDA, or a newer driver"
    return Check(name="GPUs here", ok=False, note=f"/dev/nvidia0 exists, but {mend}")


def _memory_bytes() -> int:
    """The machine's memory, or the container's limit if that is lower."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.exists() else "max"
    return total if text == "max" else min(total, int(text))


def _gib(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB"
