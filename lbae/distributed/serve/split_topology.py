"""The split topology: groups of verbs in deployments of their own, behind the one that takes requests.

Only latents go between deployments, packed, except for images that a client sent or gets. It does not load
torch: of a bundle, the deployment that takes requests holds the facts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ray import serve as ray_serve
from ray.exceptions import ObjectLostError, RayActorError
from ray.serve.handle import DeploymentHandle
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt

from lbae.distributed.serve.bundle_version import FACTS, BundleVersion
from lbae.distributed.serve.packed_latents import packed, unpacked
from lbae.distributed.serve.replica_bundles import fetch_parts, replica_bundles
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
    "Codec": Role(verbs=("encode", "decode", "reconstruct", "recode"), parts=("codec",)),
    "Sampler": Role(verbs=("draw", "vary"), parts=("prior",)),
    "Interpolator": Role(verbs=("path",), parts=("normals",)),
    "Editor": Role(
        verbs=("edit", "edit_at_all", "confidence", "move_to_given"), parts=("attributes", "values")
    ),
    INGRESS: Role(verbs=(), parts=(FACTS,)),
}
DEPLOYMENT_VERBS = {name: role.verbs for name, role in ROLES.items() if role.verbs}

# Calls have no side effects, so one whose replica or node died is retried on another replica.
_RETRY: dict[str, Any] = {
    "retry": retry_if_exception_type((RayActorError, ObjectLostError)),
    "stop": stop_after_attempt(3),
    "reraise": True,
}


async def start_split_ingress() -> Callable[[], Backend]:
    """Hold the facts of the bundle; the result gives the backend that calls the deployments of the verbs."""
    app = ray_serve.get_replica_context().app_name
    handles = {
        verb: ray_serve.get_deployment_handle(name, app)
        for name, role in ROLES.items()
        for verb in role.verbs
    }

    async def open_version(version: BundleVersion) -> _RemoteBackend:
        return _RemoteBackend(version, handles, **await fetch_parts(version, ROLES[INGRESS].parts))

    bundles = replica_bundles(open_version)
    await bundles.start()
    return bundles.current


class _RemoteBackend:
    """Calls the deployments of the verbs, all on one bundle version."""

    def __init__(
        self, version: BundleVersion, handles: dict[str, DeploymentHandle], facts: BundleFacts
    ) -> None:
        self.facts, self._version, self._handles = facts, version, handles

    async def _call(self, verb: str, *arguments: Any) -> np.ndarray:
        sent = [packed(argument) for argument in arguments]

        async def once() -> Any:
            return await self._handles[verb].call.remote(self._version, verb, *sent)

        result: Any = unpacked(await AsyncRetrying(**_RETRY)(once))
        if isinstance(result, UserError):
            raise result
        return result

    async def draw(
        self, count: int, seed: int, given: Mapping[str, bool], component: int | None, temperature: float
    ) -> np.ndarray:
        """Latents of the prior, or of one of its components."""
        return await self._call("draw", count, seed, given, component, temperature)

    async def move_to_given(self, latents: np.ndarray, given: Mapping[str, bool]) -> np.ndarray:
        """Drawn latents, edited so that their images show the attributes that they were drawn with."""
        return await self._call("move_to_given", latents, given)

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

    async def reconstruct(self, images: np.ndarray) -> np.ndarray:
        """Images of the latents of images."""
        return await self._call("reconstruct", images)

    async def recode(self, latents: np.ndarray) -> np.ndarray:
        """Latents of the images of latents."""
        return await self._call("recode", latents)

    def check(self) -> None:
        """Do nothing: Serve checks the deployments of the verbs themselves."""
