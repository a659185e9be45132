"""The storage of a training run, for checkpoints and TensorBoard's events: a folder that belongs to this run
alone.
"""

import json
from typing import Any

from lbae.errors import LbaeError, OverwriteNeeded, UserError
from lbae.io.artifacts import output as artifact
from lbae.io.storage.location import absolute, resolve

_IDENTITY = "run.json"


def storage_of(asked: str | None, out: str) -> str:
    """Where checkpoints go; UserError when that is the output or in it, which is cleared when a
    run begins."""
    place = absolute(asked or f"{absolute(out)}-checkpoints")
    if resolve(out).holds(resolve(place)):
        raise UserError(
            f"storage {asked} lies in the output {out}; give a folder of its own, or leave --storage out"
        )
    return place


def known_run(out: str, folder: str) -> dict[str, Any]:
    """What the run that is continued or finished was given or found: the cluster may have another size by
    now.
    """
    published = resolve(out) / artifact.MANIFEST
    if published.exists():
        return artifact.read_manifest(out).config
    identity = resolve(folder) / _IDENTITY
    known: dict[str, Any] = json.loads(identity.read_bytes()) if identity.exists() else {}
    return known


def claim(folder: str, identity: dict[str, Any], overwrite: bool, anew: bool) -> None:
    """Mark a storage as this run's, and clear it for another one or to begin ``anew``.

    UserError when it holds another run, whose checkpoints would not fit, or files that are no run's.
    """
    location, known = resolve(folder), resolve(folder) / _IDENTITY
    try:
        if known.exists():
            changed = artifact.changes(json.loads(known.read_bytes()), identity)
            if changed and not overwrite:
                raise OverwriteNeeded(
                    f"storage {folder} holds checkpoints of another run ({changed}); give the same options"
                    f" to continue it,"
                    " another --storage, or --overwrite"
                )
            if changed or anew:
                location.remove()
        elif location.exists() and not location.is_empty_folder():
            raise UserError(f"storage {folder} holds files, and no run of this job; give a folder of its own")
        known.write_bytes(json.dumps(identity, indent=2).encode())
    except OSError as error:
        raise LbaeError(f"storage {folder} cannot be written: {error}") from error
