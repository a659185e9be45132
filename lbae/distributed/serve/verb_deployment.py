"""The deployment class of the split topology: some verbs, on the parts of bundles that they need.

It does not load torch: what opens the verbs does, where they need it.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from ray.serve.handle import DeploymentHandle

from lbae.distributed.serve.bundle_version import BundleVersion
from lbae.distributed.serve.packed_latents import packed, unpacked
from lbae.distributed.serve.replica_bundles import fetch_parts, replica_bundles
from lbae.errors import UserError
from lbae.web.backend.backend import Verbs


class VerbDeployment:
    """Runs verbs on the bundle version that the caller names.

    Args:
        open_verbs: called with the parts of a bundle, in a thread.
        parts: their names.
        registry: which Serve starts first.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, open_verbs: Callable[..., Verbs], parts: tuple[str, ...], registry: DeploymentHandle
    ) -> None:
        async def open_version(version: BundleVersion) -> Verbs:
            found = await fetch_parts(version, parts)
            return await asyncio.to_thread(open_verbs, *found.values())

        self._verbs = replica_bundles(open_version)
        await self._verbs.start()

    async def call(self, version: BundleVersion, verb: str, *arguments: Any) -> Any:
        """The result of a verb, or its UserError: Serve would log a raised one with its traceback."""
        verbs = await self._verbs.opened(version)
        try:
            return packed(await getattr(verbs, verb)(*map(unpacked, arguments)))
        except UserError as error:
            return error

    def check_health(self) -> None:
        """Raise when the verbs are stuck; Serve then replaces this replica."""
        self._verbs.current().check()
