"""Leave out of an edit what it would change in other attributes.

The step of an attribute is how the sides move, to first order, when it alone changes from one value to
another (:mod:`lbae.core.latents.adjusted_means`). Sides have the covariance R, and the bits tell them with an
error of about unit variance. So steps are told apart by generalised least squares (Aitken 1935) in the metric
(R + I)^-1.
"""

import numpy as np
from jaxtyping import Float64

from lbae.core.latents.value_models import ValueModels


def without_other_attributes(
    models: ValueModels, source: int, target: int, change: Float64[np.ndarray, "K N"]
) -> Float64[np.ndarray, "K N"]:
    """The ``change`` of sides from one value to another of its column, less the steps of all other columns.

    It keeps what lies along the step from ``source`` to ``target`` too: where another column has the same
    step, such as a class and its superclass, the two cannot change alone.
    """
    model, others = models.model(source), models.steps_of_others(source)
    own = (models.shifts_from(source, target) - model.shifts)[None]
    told_others, told_own, told_change = (model.told(some) for some in (others, own, change))
    shared = _weights(told_own, told_others)
    found = _weights(told_others - shared @ told_own, told_change)
    return change - found @ (others - shared @ own)


def _weights(
    steps: Float64[np.ndarray, "J N"], changes: Float64[np.ndarray, "K N"]
) -> Float64[np.ndarray, "K J"]:
    """How often each step is in each of the changes, by least squares."""
    found: Float64[np.ndarray, "K J"] = np.linalg.lstsq(steps.T, changes.T)[0].T
    return found
