"""Leave out of an edit what would change other attributes.

The step of an attribute is how the sides move, to first order, when it alone changes from one value to
another (:mod:`lbae.core.latents.adjusted_means`). The sides of latents have the covariance R, and their bits
determine them with an error of about unit variance. So the steps in a change are found by generalised least
squares (Aitken 1935) with the covariance R + I.
"""

import numpy as np
from jaxtyping import Float64

from lbae.core.latents.value_models import ValueModels

_LEAST = 1e-4  # shorter steps, as a share of the longest, are rounding errors


def without_other_attributes(
    models: ValueModels, source: int, target: int, change: Float64[np.ndarray, "K N"]
) -> Float64[np.ndarray, "K N"]:
    """The ``change`` of sides from one value of a column to another, less the steps of all other columns.

    What lies along the step from ``source`` to ``target`` stays. A column that always changes with this one,
    such as a superclass with its class, therefore still does.
    """
    model, (own, others) = models.model(source), models.steps(source, target)
    white_own = model.whitened_with_noise(own)
    left = others - _weights(white_own, model.whitened_with_noise(others)) @ own
    # The own step is among the regressors for its length: next to it, rounding errors are no steps.
    white_steps = np.vstack([white_own, model.whitened_with_noise(left)])
    weights = _weights(white_steps, model.whitened_with_noise(change))
    return change - weights[:, 1:] @ left


def _weights(
    steps: Float64[np.ndarray, "J N"], changes: Float64[np.ndarray, "K N"]
) -> Float64[np.ndarray, "K J"]:
    """The weights of the steps whose sum is nearest to each change."""
    found: Float64[np.ndarray, "K J"] = np.linalg.lstsq(steps.T, changes.T, rcond=_LEAST)[0].T
    return found
