"""How near edits bring the moments of latents to those of latents that have the value asked for."""

import numpy as np
from jaxtyping import Int8

from lbae.core.latents.exchange import exchange
from lbae.core.latents.packing import pack
from lbae.core.latents.value_models import ValueModels
from lbae.core.moments.moment_accumulator import sum_packed
from lbae.core.moments.moment_sums import MomentSums
from lbae.core.prior.fidelity import moment_errors

ROWS = 1_000  # of the latents that are edited, and of those compared with them
Errors = dict[str, dict[str, float]]


def edited_moments(
    models: ValueModels,
    value: int,
    others: Int8[np.ndarray, "K N"],
    members: Int8[np.ndarray, "J N"],
    target: MomentSums,
) -> Errors:
    """Errors of the moments of latents against ``target``, the sums of all latents with a value.

    ``before``: of the latents ``others``, which have another value. ``edited``: of the same, edited to the
    value at strength 1. ``members``: of ``members``, which have the value; their errors are chance, to be
    compared with those of as many others.
    """
    asked = {int(models.attributes[value]): int(models.signs[value])}
    compared = {"before": others, "edited": exchange(models, (), others, asked, 1.0), "members": members}
    sums = {name: sum_packed(pack(latents), target.latent_dim) for name, latents in compared.items()}
    return {
        name: moment_errors(some.mean, some.second, target.mean, target.second) for name, some in sums.items()
    }
