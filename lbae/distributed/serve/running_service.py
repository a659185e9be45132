"""The service that runs on the connected Ray: what it serves, and swapping its bundle."""

import time
from typing import Any

from ray import serve as ray_serve
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus

from lbae.distributed.serve.bundle_registry import RegistryState
from lbae.distributed.serve.replica_bundles import REGISTRY
from lbae.errors import LbaeError
from lbae.io.storage.location import absolute

APP = "lbae"
_SWAP_S = 600
_POLL_S = 0.2
_NOT_RUNNING = (ApplicationStatus.NOT_STARTED, ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.DELETING)


def is_served() -> bool:
    """Whether a service of this package runs; the remains of a failed start do not count."""
    found = ray_serve.status().applications.get(APP)
    return found is not None and found.status not in _NOT_RUNNING


def state(timeout_s: float = 60) -> RegistryState:
    """What the service serves. LbaeError if it has no bundle, TimeoutError if no answer comes in time."""
    found: RegistryState = _registry().state.remote().result(timeout_s=timeout_s)
    return found


def swap(bundle: str) -> dict[str, Any]:
    """Swap to the bundle at this URI, wait until all replicas serve it, and return both fingerprints.

    UserError or LbaeError if the bundle cannot be served; the service then keeps the one it has.
    """
    before = state().current
    wanted = _registry().swap.remote(absolute(bundle)).result(timeout_s=_SWAP_S)
    if isinstance(wanted, LbaeError):
        raise wanted
    until = time.monotonic() + _SWAP_S
    while (now := state()).current.fingerprint != wanted.fingerprint:
        if now.next != wanted:
            raise LbaeError(f"bundle {bundle} is not served: a later swap, to {now.next.uri}, replaced it")
        if time.monotonic() > until:
            raise LbaeError(
                f"not all replicas hold bundle {bundle} after {_SWAP_S} s; {before.uri} is still served"
            )
        time.sleep(_POLL_S)
    return {"bundle": wanted.fingerprint, "before": before.fingerprint}


def _registry() -> DeploymentHandle:
    return ray_serve.get_deployment_handle(REGISTRY, APP)
