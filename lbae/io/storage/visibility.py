"""The delay with which a storage shows other machines' writes, and waiting until they are visible.

Local disks and object stores show every write at once. An NFS client answers listings and look-ups from a
cache for up to 60 s, unless its mount options say otherwise; so do many FUSE mounts. Exclusive creation and
rename always go to the server and stay atomic.
"""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from lbae.errors import LbaeError
from lbae.io.storage.location import Location

FIT_STORAGE = (
    "use an object store with conditional writes, a local disk, or NFSv4 mounted with noac, or with"
    " lookupcache=none,actimeo=1"
)
_CACHED_S = 60.0  # default of NFS (acregmax, acdirmax) and of many FUSE mounts; CIFS caches for less
_POLL_S = 0.5
_MOUNTS = Path("/proc/self/mountinfo")
_LOCAL = {"apfs", "bcachefs", "btrfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "tmpfs"}
_LOCAL |= {"vfat", "xfs", "zfs", "ceph", "gpfs", "lustre"}  # the last three keep their clients coherent
_CONSISTENT = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "hdfs", "memory"}
_NAMED = 3  # an error message names this many missing files


def delay_s(location: Location) -> float:
    """The longest time in seconds until this machine sees a write of another machine at this location."""
    if not location.is_local:
        protocols = location.fs.protocol
        named = {protocols} if isinstance(protocols, str) else set(protocols)
        return 0.0 if named & _CONSISTENT else _CACHED_S
    kind, options = _mount(os.path.realpath(location.path))
    if kind in _LOCAL or "noac" in options:
        return 0.0
    return max(float(options.get(name, _CACHED_S)) for name in ("acregmax", "acdirmax"))


def _mount(path: str) -> tuple[str, dict[str, str]]:
    """Type and mount options of the filesystem that holds a path; both empty if they are unknown."""
    kind, options, longest = "", "", ""
    for line in _MOUNTS.read_text().splitlines() if _MOUNTS.exists() else ():
        own, _, rest = line.partition(" - ")
        point = own.split()[4].encode().decode("unicode_escape").rstrip("/")  # a space is written \040
        if f"{path}/".startswith(f"{point}/") and len(point) >= len(longest):
            longest, (kind, _, options) = point, rest.split(maxsplit=2)
    return kind, {name: value for name, _, value in (option.partition("=") for option in options.split(","))}


def wait_until_visible(folder: Location, missing: Callable[[], Sequence[str]]) -> None:
    """Wait until ``missing`` returns no files of the folder.

    Raises:
        LbaeError: Files are still missing after the storage's delay (:func:`delay_s`); it names some.
    """
    delay = delay_s(folder)
    until = time.monotonic() + delay
    while late := missing():
        if time.monotonic() >= until:
            more = f" and {len(late) - _NAMED} more" if len(late) > _NAMED else ""
            raise LbaeError(
                f"{folder} does not show files that this job wrote (waited {delay:g} s):"
                f" {', '.join(late[:_NAMED])}{more}; {FIT_STORAGE}, and run the job again"
            )
        time.sleep(_POLL_S)
        folder.refresh()
