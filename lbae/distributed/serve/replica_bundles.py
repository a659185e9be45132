"""The bundles that one replica holds, as the bundle registry assigns them. It does not load torch."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Generic, TypeVar

from ray import serve as ray_serve
from ray.serve.handle import DeploymentHandle

from lbae.distributed.serve.bundle_version import Assignment, BundleVersion

_HEARTBEAT_S = 1.0

logger = logging.getLogger("ray.serve")

REGISTRY = "BundleRegistry"  # the deployment

Opened = TypeVar("Opened")


class ReplicaBundles(Generic[Opened]):
    """What this replica opened of each bundle version that it holds, and the version that it serves."""

    def __init__(
        self,
        registry: DeploymentHandle,
        replica: str,
        open_version: Callable[[BundleVersion], Awaitable[Opened]],
    ) -> None:
        self._registry, self._replica, self._open_version = registry, replica, open_version
        self._held: dict[str, Opened] = {}
        self._opening: dict[str, asyncio.Task[Opened]] = {}
        self._serving: BundleVersion | None = None

    async def start(self) -> None:
        """Open the assigned bundle, and follow the registry's assignments from then on."""
        assignment = await self._sync()
        await self.opened(assignment.serve)
        self._serving = assignment.serve
        self._syncing = asyncio.create_task(self._keep_in_sync())

    def current(self) -> Opened:
        """What is open of the version served. It stays usable for the whole request."""
        assert self._serving is not None
        return self._held[self._serving.fingerprint]

    async def opened(self, version: BundleVersion) -> Opened:
        """What is open of a version that another deployment asks for."""
        if version.fingerprint in self._held:
            return self._held[version.fingerprint]
        return await asyncio.shield(self._open(version))  # a cancelled caller must not stop the others

    def _open(self, version: BundleVersion) -> asyncio.Task[Opened]:
        if version.fingerprint not in self._opening:
            task = asyncio.create_task(self._open_and_hold(version))
            # Read the exception, which is logged already, or asyncio would report it again.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._opening[version.fingerprint] = task
        return self._opening[version.fingerprint]

    async def _open_and_hold(self, version: BundleVersion) -> Opened:
        try:
            self._held[version.fingerprint] = opened = await self._open_version(version)
        except Exception as error:
            logger.warning("%s cannot open bundle %s: %s", self._replica, version.uri, error)
            raise
        finally:
            del self._opening[version.fingerprint]
        return opened

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
        self._held = {name: opened for name, opened in self._held.items() if name in wanted}
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


def replica_bundles(open_version: Callable[[BundleVersion], Awaitable[Opened]]) -> ReplicaBundles[Opened]:
    """The bundles of the replica of Ray Serve that calls this."""
    replica = ray_serve.get_replica_context().replica_id.to_full_id_str()
    return ReplicaBundles(registry_handle(), replica, open_version)


def registry_handle() -> DeploymentHandle:
    """A handle of this application's bundle registry."""
    return ray_serve.get_deployment_handle(REGISTRY, ray_serve.get_replica_context().app_name)


async def fetch_parts(version: BundleVersion, parts: Iterable[str]) -> dict[str, Any]:
    """The named parts of a bundle version; their large arrays are views of the node's object store."""
    references = await registry_handle().fetch.remote(version)
    return {name: await references[name] for name in parts}
