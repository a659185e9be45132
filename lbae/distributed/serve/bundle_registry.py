"""The bundle registry of a service: one deployment that loads bundles and assigns them to replicas.

Every replica sends a heartbeat once a second and gets its assignment: the bundle versions to hold and the one
to serve. A new version is served once all live replicas hold it; the version before it is held until requests
that use it must have ended. The replica's side is :mod:`lbae.distributed.serve.replica_bundles`.
"""

import asyncio
import logging
import time
from dataclasses import dataclass, fields

import numpy as np
import ray

from lbae.core.bundle import Bundle
from lbae.distributed.serve.bundle_version import FACTS, Assignment, BundleVersion
from lbae.errors import LbaeError, UserError
from lbae.io.artifacts.bundle_artifact import KIND, load_bundle, read_pointer
from lbae.io.artifacts.manifest import read_manifest
from lbae.web.backend.bundle_backend import bundle_facts

_POLL_S = 1.0  # between polls of the pointer file
_RETRY_S = 5.0  # the same after a poll or swap that failed
_DEAD_S = 10.0  # a swap does not wait for a replica without a heartbeat for this long
_SETTLE_S = 5.0  # no swap ends before: a restarted registry has then heard from every live replica

logger = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class RegistryState:
    """The version served, the one replicas change to, and the error if the last swap or poll failed."""

    current: BundleVersion
    next: BundleVersion
    problem: str | None


@dataclass(frozen=True)
class _Heartbeat:
    at: float
    held: frozenset[str]


def _load(uri: str) -> Bundle:
    """Load a bundle and compute its matrices, so that replicas share them through the object store.

    UserError when it cannot be served.
    """
    bundle = load_bundle(uri, "cpu")
    try:
        bundle.normals.prepare()
    except np.linalg.LinAlgError as error:
        raise UserError(f"bundle {uri} cannot be served: its normals' factor is damaged ({error})") from error
    return bundle


class BundleRegistry:
    """Keeps the parts of bundles in the object store, where the replicas of a node share their large arrays.

    A replica fetches the parts that it needs: the fields of ``Bundle``, and the facts for clients.

    Args:
        uri: URI of a bundle, or with ``follow`` of a pointer file that holds a bundle's URI.
        follow: swap to the new bundle when the pointer file changes.
        keep_s: seconds that a replaced version is held.

    A first bundle that cannot be read raises nothing here; heartbeats report the error. A restarted registry
    may not need that bundle, because the replicas' heartbeats say which version they serve.
    """

    def __init__(self, uri: str, follow: bool, keep_s: float) -> None:
        self._pointer, self._keep_s = uri if follow else None, keep_s
        self._bundles: dict[str, dict[str, ray.ObjectRef]] = {}
        self._image_shape: tuple[int, int, int] | None = None
        self._current: BundleVersion | None = None
        self._next: BundleVersion | None = None
        self._retired: dict[BundleVersion, float] = {}
        self._heartbeats: dict[str, _Heartbeat] = {}
        self._started = time.monotonic()
        self._loading = asyncio.Lock()
        self._problem: str | None = None
        self._following: asyncio.Task[None] | None = None
        try:
            first = read_pointer(uri) if follow else uri
            self._current = self._next = self._store(0, first, _load(first))
        except (LbaeError, OSError) as error:
            self._problem = str(error)

    async def swap(self, uri: str) -> BundleVersion | LbaeError:
        """Start a hot swap to the bundle at a URI, and return its version.

        Errors are returned, because Serve would log a raised one with its traceback.
        """
        if self._pointer:
            return UserError(
                f"this service follows {self._pointer}; write the URI of the bundle into that file"
            )
        return await self._swap(uri)

    async def heartbeat(
        self, replica: str, held: frozenset[str], serving: BundleVersion | None
    ) -> Assignment:
        """The assignment of a replica that holds bundles of these fingerprints and serves this version.

        LbaeError when there is no bundle to serve.
        """
        if serving and self._is_behind(serving):
            await self._recover(serving)
        current, next_ = self._versions()
        if self._pointer and not self._following:
            self._following = asyncio.create_task(self._follow(self._pointer))
        now = time.monotonic()
        self._heartbeats[replica] = _Heartbeat(now, held)
        self._heartbeats = {name: beat for name, beat in self._heartbeats.items() if now - beat.at < _DEAD_S}
        settled = now - self._started >= _SETTLE_S
        held_by_all = all(next_.fingerprint in beat.held for beat in self._heartbeats.values())
        if next_ != current and settled and held_by_all:
            self._retired[current] = now
            self._current = current = next_
        self._retired = {
            version: since for version, since in self._retired.items() if now - since < self._keep_s
        }
        hold = {version.fingerprint: version for version in (*self._retired, current, next_)}
        self._bundles = {name: bundle for name, bundle in self._bundles.items() if name in hold}
        return Assignment(tuple(hold.values()), current)

    async def fetch(self, version: BundleVersion) -> dict[str, ray.ObjectRef]:
        """References to the parts of a version's bundle, by name.

        LbaeError if the version's URI now holds another bundle.
        """
        await self._ensure_loaded(version)
        return self._bundles[version.fingerprint]

    def state(self) -> RegistryState:
        """What the service serves. LbaeError when there is no bundle to serve."""
        return RegistryState(*self._versions(), self._problem)

    def _store(self, number: int, uri: str, bundle: Bundle) -> BundleVersion:
        self._image_shape = self._image_shape or bundle.codec.config.image_shape
        if bundle.fingerprint not in self._bundles:
            parts = {field.name: getattr(bundle, field.name) for field in fields(bundle)}
            parts[FACTS] = bundle_facts(bundle)
            self._bundles[bundle.fingerprint] = {name: ray.put(part) for name, part in parts.items()}
        return BundleVersion(number, uri, bundle.fingerprint)

    async def _swap(self, uri: str) -> BundleVersion | LbaeError:
        async with self._loading:
            try:
                bundle = await asyncio.to_thread(_load, uri)
                self._check_shape(uri, bundle)
            except (LbaeError, OSError) as error:
                self._problem = str(error)
                return error if isinstance(error, LbaeError) else LbaeError(str(error))
            self._problem = None
            if self._next is None:
                self._current = self._next = self._store(0, uri, bundle)
            elif bundle.fingerprint != self._next.fingerprint:
                self._next = self._store(self._next.number + 1, uri, bundle)
            return self._next

    def _check_shape(self, uri: str, bundle: Bundle) -> None:
        found, allowed = bundle.codec.config.image_shape, self._image_shape
        if allowed and found != allowed:
            raise UserError(
                f"bundle {uri} makes images of {found} (height, width, channels); allowed: {allowed}, the"
                " shape of the bundle that this service started with"
            )

    def _is_behind(self, serving: BundleVersion) -> bool:
        """Whether a replica serves a newer version than any this registry knows: it was restarted."""
        return self._next is None or serving.number > self._next.number

    async def _recover(self, serving: BundleVersion) -> None:
        """Resume from the version that a replica serves."""
        async with self._loading:
            if self._is_behind(serving):  # an earlier heartbeat may have brought the same version
                await self._ensure_loaded(serving)
                self._current = self._next = serving
                self._problem = None

    async def _ensure_loaded(self, version: BundleVersion) -> None:
        if version.fingerprint not in self._bundles:
            bundle = await asyncio.to_thread(_load, version.uri)
            if bundle.fingerprint != version.fingerprint:
                raise LbaeError(
                    f"{version.uri} holds bundle {bundle.fingerprint} now; {version.fingerprint} is needed"
                )
            self._store(version.number, version.uri, bundle)

    def _versions(self) -> tuple[BundleVersion, BundleVersion]:
        if self._current is None or self._next is None:
            raise LbaeError(f"there is no bundle to serve: {self._problem}")
        return self._current, self._next

    async def _follow(self, pointer: str) -> None:
        """Poll the pointer file for as long as the registry lives."""
        refused: tuple[str, str] | None = None
        while True:
            await asyncio.sleep(_RETRY_S if self._problem else _POLL_S)
            before = self._problem
            try:
                refused = await self._poll(pointer, refused)
            except Exception as error:  # any storage error: keep serving and polling
                refused, self._problem = None, str(error)
            if self._problem and self._problem != before:
                logger.warning("the service keeps its bundle: %s", self._problem)

    async def _poll(self, pointer: str, refused: tuple[str, str] | None) -> tuple[str, str] | None:
        """Swap if the pointer names another bundle; return URI and fingerprint of a bundle that was refused.

        A refused bundle is not loaded again before the pointer or its manifest changes.
        """
        uri = await asyncio.to_thread(read_pointer, pointer)
        _, next_ = self._versions()
        found = uri, (await asyncio.to_thread(read_manifest, uri, KIND)).fingerprint
        if found[1] == next_.fingerprint:
            self._problem = None
            return None
        if found == refused:
            return refused
        return found if isinstance(await self._swap(uri), UserError) else None
