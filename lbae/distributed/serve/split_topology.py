"""The split topology: each verb in a deployment of its own, behind the deployment that takes requests."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ray import serve as ray_serve
from ray.exceptions import ObjectLostError, RayActorError
from ray.serve.handle import DeploymentHandle
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt

from lbae.distributed.serve.bundle_registry import BundleVersion
from lbae.distributed.serve.replica_bundles import ReplicaBundles
from lbae.errors import UserError
from lbae.web.backend.backend import Backend, BundleFacts

INGRESS = "LBAE"  # the deployment that takes the requests


@dataclass(frozen=True, kw_only=True)
class Role:
    """What a deployment does: its verbs, and the parts of a bundle (fields of ``Bundle``) that they need."""

    verbs: tuple[str, ...]
    parts: tuple[str, ...]

    @property
    def runs_network(self) -> bool:
        """Whether the deployment runs the network, so that it may want a GPU."""
        return "codec" in self.parts


ROLES = {
    "Codec": Role(verbs=("encode", "decode"), parts=("codec",)),
    "Sampler": Role(verbs=("draw", "vary"), parts=("prior",)),
    "Interpolator": Role(verbs=("path",), parts=("normals",)),
    "Editor": Role(verbs=("edit", "edit_at_all", "confidence"), parts=("attributes", "values")),
    INGRESS: Role(verbs=(), parts=()),
}
DEPLOYMENT_VERBS = {name: role.verbs for name, role in ROLES.items() if role.verbs}

# Calls have no side effects, so one whose replica or node died is retried on another replica.
_RETRY: dict[str, Any] = {
    "retry": retry_if_exception_type((RayActorError, ObjectLostError)),
    "stop": stop_after_attempt(3),
    "reraise": True,
}


class VerbDeployment:
    """Runs verbs on the bundle version that the caller names."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, open_bundles: Callable[[], ReplicaBundles], registry: DeploymentHandle
    ) -> None:
        self._bundles = open_bundles()
        await self._bundles.start()

    async def facts(self, version: BundleVersion) -> BundleFacts:
        """The facts of a bundle version."""
        return (await self._bundles.backend(version)).facts

    async def call(self, version: BundleVersion, verb: str, *arguments: Any) -> Any:
        """The result of a verb, or its UserError: Serve would log a raised one with its traceback."""
        try:
            return await getattr(await self._bundles.backend(version), verb)(*arguments)
        except UserError as error:
            return error

    def check_health(self) -> None:
        """Raise when the backend is stuck; Serve then replaces this replica."""
        self._bundles.current().check()


async def open_remote_backend(version: BundleVersion) -> Backend:
    """A backend that calls the deployments of the verbs, all on one bundle version."""
    app = ray_serve.get_replica_context().app_name
    handles = {name: ray_serve.get_deployment_handle(name, app) for name in DEPLOYMENT_VERBS}
    return _RemoteBackend(version, await handles["Sampler"].facts.remote(version), handles)


class _RemoteBackend:
    def __init__(
        self, version: BundleVersion, facts: BundleFacts, handles: dict[str, DeploymentHandle]
    ) -> None:
        self.version, self.facts = version, facts
        self._handles = {verb: handles[name] for name, verbs in DEPLOYMENT_VERBS.items() for verb in verbs}

    async def _call(self, verb: str, *arguments: Any) -> np.ndarray:
        async def once() -> Any:
            return await self._handles[verb].call.remote(self.version, verb, *arguments)

        result: Any = await AsyncRetrying(**_RETRY)(once)
        if isinstance(result, UserError):
            raise result
        return result

    async def draw(
        self, count: int, seed: int, given: Mapping[str, bool], component: int | None, temperature: float
    ) -> np.ndarray:
        """Latents of the prior, or of one of its components."""
        return await self._call("draw", count, seed, given, component, temperature)

    async def vary(self, latents: np.ndarray, count: int, seed: int, strength: float) -> np.ndarray:
        """``count`` variations of each latent."""
        return await self._call("vary", latents, count, seed, strength)

    async def path(self, waypoints: np.ndarray, steps: int, seed: int) -> np.ndarray:
        """Latents through all waypoints."""
        return await self._call("path", waypoints, steps, seed)

    async def edit(
        self,
        latents: np.ndarray,
        set_: Sequence[str],
        unset: Sequence[str],
        strength: float,
        method: str,
    ) -> np.ndarray:
        """Latents with attributes set and unset."""
        return await self._call("edit", latents, set_, unset, strength, method)

    async def edit_at_all(self, latents: np.ndarray, set_: Sequence[str], unset: Sequence[str]) -> np.ndarray:
        """The latents edited at each of ``STRENGTHS``."""
        return await self._call("edit_at_all", latents, set_, unset)

    async def confidence(self, latents: np.ndarray, set_: Sequence[str], unset: Sequence[str]) -> np.ndarray:
        """The probability that each latent has attributes set and unset as asked."""
        return await self._call("confidence", latents, set_, unset)

    async def encode(self, images: np.ndarray) -> np.ndarray:
        """Latents of images."""
        return await self._call("encode", images)

    async def decode(self, latents: np.ndarray) -> np.ndarray:
        """Images of latents."""
        return await self._call("decode", latents)

    def check(self) -> None:
        """Do nothing: Serve checks the deployments of the verbs themselves."""
