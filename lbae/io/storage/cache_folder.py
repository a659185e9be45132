"""The folder for files that can be downloaded or computed again."""

import os
from pathlib import Path

from lbae.errors import UserError
from lbae.io.storage.location import Location, resolve


def local_cache() -> Path:
    """The user's cache folder, for files that can be downloaded or computed again."""
    return Path.home() / ".cache" / "lbae"


def cache_folder() -> Location:
    """The cache folder: LBAE_CACHE, a URI that all nodes can reach, else :func:`local_cache`.

    A local folder is created here, so a job fails before it computes for a cache that it cannot write.

    Raises:
        UserError: The folder cannot be created.
    """
    folder = resolve(os.environ.get("LBAE_CACHE") or str(local_cache()))
    if folder.is_local:
        try:
            os.makedirs(folder.path, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"the cache {folder} cannot be created ({error}); set LBAE_CACHE to a folder that you can"
                f" write to"
            ) from error
    return folder
