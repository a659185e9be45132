"""A network whose training steps run as compiled code (``torch.compile``)."""

import os
import shutil
import sys

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lbae.core.network.training import BATCHNORM_MOMENTUM
from lbae.errors import UserError


class Compiled(nn.Module):
    """Calls a network on a device as compiled code, as soon as its BatchNorm momentum no longer changes.

    Compiled code holds the momentum as a constant, so each of the first nine steps would be compiled anew. On
    a GPU the code is a CUDA graph: small kernels take less time than their launches do.

    UserError if there is no C++ compiler, which compiled code needs.
    """

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        super().__init__()
        compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
        if shutil.which(compiler) is None:
            raise UserError(
                f"compiled training needs a C++ compiler, and there is no {compiler} on PATH; install one on"
                " the workers' nodes, or name it in CXX, or train without --compiled"
            )
        self.network = network
        mode = "reduce-overhead" if device.type == "cuda" else "default"
        self._compiled = torch.compile(network, fullgraph=True, mode=mode)
        self._norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The network's logits and the term of its bottleneck."""
        settled = all(norm.momentum == BATCHNORM_MOMENTUM for norm in self._norms)
        found: tuple[torch.Tensor, torch.Tensor] = (self._compiled if settled else self.network)(images)
        return found
