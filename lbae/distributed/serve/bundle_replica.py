"""What runs in replicas that hold the network: the whole bundle, or the codec alone."""

import asyncio
import dataclasses
from collections.abc import Callable

import ray
import torch

from lbae.core.bundle import Bundle
from lbae.core.network.codec import Codec
from lbae.distributed.cluster.device import checked_device, device_type
from lbae.distributed.serve.bundle_version import BundleVersion
from lbae.distributed.serve.metrics import observe_batches
from lbae.distributed.serve.replica_bundles import fetch_parts, replica_bundles
from lbae.web.backend.backend import Backend
from lbae.web.backend.bundle_backend import BundleBackend
from lbae.web.backend.codec_verbs import CodecVerbs


async def start_bundle_replica(threads: int) -> Callable[[], Backend]:
    """Open the bundle with all its verbs; the result gives the backend to answer from."""
    torch.set_num_threads(threads)
    on_batch = observe_batches()

    async def open_version(version: BundleVersion) -> BundleBackend:
        parts = await fetch_parts(version, [field.name for field in dataclasses.fields(Bundle)])
        bundle = Bundle(**parts)
        return await asyncio.to_thread(lambda: BundleBackend(bundle.to(_device()), on_batch))

    bundles = replica_bundles(open_version)
    await bundles.start()
    return bundles.current


def open_codec(codec: Codec, threads: int) -> CodecVerbs:
    """The verbs of the codec, on this replica's device."""
    torch.set_num_threads(threads)
    return CodecVerbs(codec.to(_device()), observe_batches())


def _device() -> torch.device:
    # Ray's view of GPUs, not torch's: torch also sees GPUs that belong to other actors.
    return checked_device(device_type(len(ray.get_gpu_ids())))
