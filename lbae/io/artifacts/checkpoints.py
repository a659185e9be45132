"""The storage folder of one training run, for checkpoints and TensorBoard events."""

import json
from typing import Any

from lbae.errors import LbaeError, OverwriteNeeded, UserError
from lbae.io.artifacts.manifest import MANIFEST, changes, read_manifest
from lbae.io.storage.json_file import read_object
from lbae.io.storage.location import absolute, resolve

_IDENTITY = "run.json"


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
    identity = resolve(folder) / _IDENTITY
    return read_object(identity) if identity.exists() else {}


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
