"""The storage folder of one training run, for checkpoints and TensorBoard events."""

import json
import uuid
from typing import Any

from lbae.errors import LbaeError, OverwriteNeeded, UserError
from lbae.io.artifacts.manifest import MANIFEST, changes, read_manifest
from lbae.io.storage.json_file import read_object
from lbae.io.storage.location import absolute, resolve

BOARD = "tensorboard"
"""The subfolder of TensorBoard's event files."""
_IDENTITY, _KEY = "run.json", "tracking.json"


def checkpoint_folder(storage: str | None, out: str) -> str:
    """The URI of the checkpoint folder: ``storage``, else ``OUT-checkpoints``.

    Raises:
        UserError: The folder lies in the output, which is cleared when a run begins.
    """
    folder = absolute(storage or f"{absolute(out)}-checkpoints")
    if resolve(out).holds(resolve(folder)):
        raise UserError(
            f"storage {storage} lies in the output {out}; give a folder outside it, or omit --storage"
        )
    return folder


def known_options(out: str, folder: str) -> dict[str, Any]:
    """The options of the run to resume or already finished; empty if there is none.

    A resumed run keeps them, although some defaults depend on the cluster, whose size may have changed.
    """
    if (resolve(out) / MANIFEST).exists():
        return read_manifest(out).config
    return stored_options(folder)


def stored_options(folder: str) -> dict[str, Any]:
    """The options of the run that a checkpoint folder holds; empty if it holds none."""
    identity = resolve(folder) / _IDENTITY
    return read_object(identity) if identity.exists() else {}


def tracking_key(folder: str) -> str:
    """The key of the run in a checkpoint folder at tracking services, made on first use.

    It lasts as long as the run's checkpoints, so whoever resumes the run continues the tracked one.
    """
    file = resolve(folder) / _KEY
    if not file.exists():
        file.write_bytes(json.dumps({"key": uuid.uuid4().hex}).encode())
    return str(read_object(file)["key"])


def begin_run(folder: str, identity: dict[str, Any], overwrite: bool, restart: bool) -> None:
    """Mark a folder as this run's.

    Args:
        folder: The URI of the folder.
        identity: The options that the run's checkpoints depend on.
        overwrite: Remove the checkpoints of another run.
        restart: Remove all checkpoints, this run's as well.

    Raises:
        OverwriteNeeded: The folder holds another run, whose checkpoints do not fit.
        UserError: The folder holds files that belong to no run.
        LbaeError: The folder cannot be written.
    """
    location, known = resolve(folder), resolve(folder) / _IDENTITY
    try:
        if known.exists():
            changed = changes(read_object(known), identity)
            if changed and not overwrite:
                raise OverwriteNeeded(
                    f"storage {folder} holds checkpoints of another run ({changed}); give the same options"
                    f" to resume it, another --storage, or --overwrite"
                )
            if changed or restart:
                # One by one, because the folder may be a link; the identity last, for a kill in between.
                for name in sorted(location.names(), key=lambda name: name == _IDENTITY):
                    (location / name).remove()
        elif location.exists() and not location.is_empty_folder():
            raise UserError(f"storage {folder} holds files but no training run; give another --storage")
        known.write_bytes(json.dumps(identity, indent=2).encode())
    except OSError as error:
        raise LbaeError(f"storage {folder} cannot be written: {error}") from error
