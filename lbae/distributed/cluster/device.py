"""The device on which processes run torch: a GPU where Ray gives one, else the CPU.

``LBAE_PRETEND_GPUS=1``, on all nodes and in the job, rehearses a GPU cluster on machines without GPUs: Ray
places work as if nodes had the GPUs of ``ray start --num-gpus``, and torch computes on CPUs.
"""

import os
import socket

import torch

from lbae.errors import LbaeError

PRETEND_GPUS = "LBAE_PRETEND_GPUS"


def gpus_are_pretended() -> bool:
    """Whether the GPUs that Ray counts do not exist."""
    return os.environ.get(PRETEND_GPUS) == "1"


def device_type(gpus: float) -> str:
    """The device type, ``cuda`` or ``cpu``, of a process to which Ray gives this many GPUs."""
    return "cuda" if gpus and not gpus_are_pretended() else "cpu"


def checked_device(device: str) -> torch.device:
    """The device of this type; LbaeError if it is ``cuda`` and torch finds no GPU on this node."""
    if device == "cuda" and not torch.cuda.is_available():
        raise LbaeError(
            f"Ray counts GPUs on node {socket.gethostname()}, and torch {torch.__version__} finds none there:"
            " start its container with --gpus all, install NVIDIA's driver and a torch built for CUDA, or"
            f" start Ray with --num-gpus 0; to rehearse without GPUs, set {PRETEND_GPUS}=1 on all nodes"
            " and for the job"
        )
    return torch.device(device)
