"""The folder of one training run, for checkpoints and TensorBoard's events."""

import json
from typing import Any

from lbae.errors import LbaeError, OverwriteNeeded, UserError
from lbae.io.artifacts.manifest import MANIFEST, changes, read_manifest
from lbae.io.storage.location import absolute, resolve

_IDENTITY = "run.json"


def checkpoint_folder(storage: str | None, out: str) -> str:
    """The URI for checkpoints; UserError when it lies in the output, which is cleared when a run begins."""
    folder = absolute(storage or f"{absolute(out)}-checkpoints")
    if resolve(out).holds(resolve(folder)):
        raise UserError(
            f"storage {storage} lies in the output {out}; give a folder of its own, or leave --storage out"
        )
    return folder


def known_options(out: str, folder: str) -> dict[str, Any]:
    """The options of the run that is resumed or finished: the cluster may have another size by now."""
    if (resolve(out) / MANIFEST).exists():
        return read_manifest(out).config
    identity = resolve(folder) / _IDENTITY
    known: dict[str, Any] = json.loads(identity.read_bytes()) if identity.exists() else {}
    return known


def begin_run(folder: str, identity: dict[str, Any], overwrite: bool, restart: bool) -> None:
    """Mark a folder as this run's. Checkpoints of another run, or all with ``restart``, are removed.

    Raises:
        OverwriteNeeded: The folder holds another run, whose checkpoints would not fit.
        UserError: It holds files that belong to no run.
    """
    location, known = resolve(folder), resolve(folder) / _IDENTITY
    try:
        if known.exists():
            changed = changes(json.loads(known.read_bytes()), identity)
            if changed and not overwrite:
                raise OverwriteNeeded(
                    f"storage {folder} holds checkpoints of another run ({changed}); give the same options"
                    f" to continue it, another --storage, or --overwrite"
                )
            if changed or restart:
                location.remove()
        elif location.exists() and not location.is_empty_folder():
            raise UserError(f"storage {folder} holds files, and no run of this job; give a folder of its own")
        known.write_bytes(json.dumps(identity, indent=2).encode())
    except OSError as error:
        raise LbaeError(f"storage {folder} cannot be written: {error}") from error
