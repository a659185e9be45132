"""Sign with a straight-through gradient (Fajtl et al. 2020, section 3)."""

from typing import Any

import torch
from torch import Tensor


class _StraightThroughSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


def binarize(x: Tensor) -> Tensor:
    """Map real pre-activations to {-1, +1}: tanh, then sign with sign(0) = +1.

    The gradient passes the sign unchanged (straight-through estimator) and differentiates the tanh.
    """
    z: Tensor = _StraightThroughSign.apply(torch.tanh(x))
    return z
