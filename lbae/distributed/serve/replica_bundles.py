"""The bundles that one replica holds, as the bundle registry assigns them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from ray.serve.handle import DeploymentHandle

from lbae.distributed.serve.bundle_registry import Assignment, BundleVersion
from lbae.web.backend.backend import Backend

_HEARTBEAT_S = 1.0

logger = logging.getLogger("ray.serve")

OpenBackend = Callable[[BundleVersion], Awaitable[Backend]]


class ReplicaBundles:
    """A backend for each bundle version that this replica holds, and the version that it serves."""

    def __init__(self, registry: DeploymentHandle, replica: str, open_backend: OpenBackend) -> None:
        self._registry, self._replica, self._open_backend = registry, replica, open_backend
        self._held: dict[str, Backend] = {}
        self._opening: dict[str, asyncio.Task[Backend]] = {}
        self._serving: BundleVersion | None = None

    async def start(self) -> None:
        """Open the assigned bundle, and follow the registry's assignments from then on."""
        assignment = await self._sync()
        await self.backend(assignment.serve)
        self._serving = assignment.serve
        self._syncing = asyncio.create_task(self._keep_in_sync())

    def current(self) -> Backend:
        """The backend to answer from. It stays usable for the whole request."""
        assert self._serving is not None
        return self._held[self._serving.fingerprint]

    async def backend(self, version: BundleVersion) -> Backend:
        """The backend of a version that another deployment asks for."""
        if version.fingerprint in self._held:
            return self._held[version.fingerprint]
        return await asyncio.shield(self._open(version))  # a cancelled caller must not stop the others

    def _open(self, version: BundleVersion) -> asyncio.Task[Backend]:
        if version.fingerprint not in self._opening:
            task = asyncio.create_task(self._open_and_hold(version))
            # Read the exception, which is logged already, or asyncio would report it again.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._opening[version.fingerprint] = task
        return self._opening[version.fingerprint]

    async def _open_and_hold(self, version: BundleVersion) -> Backend:
        try:
            self._held[version.fingerprint] = backend = await self._open_backend(version)
        except Exception as error:
            logger.warning("%s cannot open bundle %s: %s", self._replica, version.uri, error)
            raise
        finally:
            del self._opening[version.fingerprint]
        return backend

    async def _sync(self) -> Assignment:
        """Send a heartbeat and apply the assignment, without waiting for bundles to open.

        Without heartbeats while a bundle opens, the registry would take this replica for dead.
        """
        assignment: Assignment = await self._registry.heartbeat.remote(
            self._replica, frozenset(self._held), self._serving
        )
        for version in assignment.hold:
            if version.fingerprint not in self._held:
                self._open(version)
        if assignment.serve.fingerprint in self._held:
            self._serving = assignment.serve
        wanted = {version.fingerprint for version in (*assignment.hold, *filter(None, [self._serving]))}
        self._held = {name: backend for name, backend in self._held.items() if name in wanted}
        return assignment

    async def _keep_in_sync(self) -> None:
        while True:
            await asyncio.sleep(_HEARTBEAT_S)
            try:
                await self._sync()
            except Exception as error:  # Serve restarts a lost registry; this replica keeps serving
                logger.warning(
                    "the bundle registry does not answer (%s); %s keeps serving", error, self._replica
                )
