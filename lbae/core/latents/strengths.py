"""How far edits go, and the choice among strengths. It does not load torch."""

import numpy as np
from jaxtyping import Float64, Int64

from lbae.errors import UserError

STRONGEST = {"exchange": 2.0, "bits": 1.0}
STRENGTHS = np.arange(0, STRONGEST["exchange"] + 0.25, 0.25)


def check_strength(strength: float, method: str) -> None:
    """UserError for a strength that the method does not have."""
    if not 0 <= strength <= STRONGEST[method]:
        raise UserError(
            f"strength is {strength}; allowed: 0 (nothing changes) to {STRONGEST[method]:g} with the method"
            f" {method}; 1 gives a typical image with the attribute"
        )


def least_strengths(
    found: Float64[np.ndarray, "SK"], until: float
) -> tuple[Int64[np.ndarray, "K"], Float64[np.ndarray, "K"]]:
    """For each of K latents the row, of those of :func:`edit_at_all`, that is taken, and its strength."""
    by_strength = found.reshape(len(STRENGTHS), -1)
    reached = by_strength >= until
    first = np.where(reached.any(axis=0), reached.argmax(axis=0), by_strength.argmax(axis=0))
    return first * by_strength.shape[1] + np.arange(by_strength.shape[1]), STRENGTHS[first]
