"""Leave out of an edit what it would change in other attributes.

The step of an attribute is how the sides move, to first order, when it alone changes from one value to
another (:mod:`lbae.core.latents.adjusted_means`). Sides have the covariance R, and the bits tell them with an
error of about unit variance. So steps are told apart by generalised least squares (Aitken 1935) in the metric
(R + I)^-1.
"""

import numpy as np
from jaxtyping import Float64

from lbae.core.latents.value_models import ValueModels

_LEAST = 1e-4  # length of a step, of the longest, that is no rounding error


def without_other_attributes(
    models: ValueModels, source: int, target: int, change: Float64[np.ndarray, "K N"]
) -> Float64[np.ndarray, "K N"]:
    """The ``change`` of sides from one value to another of its column, less the steps of all other columns.

    It keeps what lies along the step from ``source`` to ``target`` too: where another column has the same
    step, such as a class and its superclass, the two cannot change alone.
    """
    model, (own, others) = models.model(source), models.steps(source, target)
    told_own = model.told(own)
    left = others - _weights(told_own, model.told(others)) @ own
    # With the own step among them, columns that differ from it by rounding only count as none.
    weights = _weights(np.vstack([told_own, model.told(left)]), model.told(change))
    return change - weights[:, 1:] @ left


def _weights(
    steps: Float64[np.ndarray, "J N"], changes: Float64[np.ndarray, "K N"]
) -> Float64[np.ndarray, "K J"]:
    """How often each step is in each of the changes, by least squares."""
    found: Float64[np.ndarray, "K J"] = np.linalg.lstsq(steps.T, changes.T, rcond=_LEAST)[0].T
    return found
