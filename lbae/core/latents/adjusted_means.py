"""The means of bits per value of an attribute column, adjusted for all other attributes.

An adjusted mean (Searle, Speed and Milliken 1980) is that of rows whose other attributes are those of the
average row. Adjusted means of two values thus differ by what the value alone changes.
"""

import numpy as np
from jaxtyping import Float32, Float64

from lbae.core.latents.value_models import ValueModels
from lbae.core.moments.attribute_statistics import attribute_covariance, attribute_statistics
from lbae.core.moments.moment_sums import MomentSums

_INFLATED = 10  # the variance inflation factor from which columns are called collinear by convention
_LEAST = 1e-6  # eigenvalue of a covariance, of its largest


def adjusted_means(models: ValueModels, moments: MomentSums) -> Float32[np.ndarray, "V N"]:
    """Adjusted means of the bits per value of ``models``, by the regression of the bits on all attributes.

    A column keeps its own means if others nearly determine it, because then they cannot stay while its value
    changes: if the difference of two of its values has a variance inflation factor above 10.
    """
    found = models.means.astype(np.float32)
    slope, (covariance, _) = attribute_statistics(moments).lift / 2, attribute_covariance(moments)
    precision = _inverse(covariance)
    for column in np.unique(models.columns):
        values = np.flatnonzero(models.columns == column)
        own = np.unique(models.attributes[values])
        codes = np.zeros((len(values), len(covariance)))
        # A class that is set goes from -1 to 1 while the others are unset; a yes/no attribute is 1 or -1.
        size = 1 if len(own) == 1 else 2
        codes[np.arange(len(values)), models.attributes[values]] = size * models.signs[values]
        alone = _inverse(covariance[np.ix_(own, own)])
        if (_variances(codes, precision) <= _INFLATED * _variances(codes[:, own], alone)).all():
            moved = codes @ slope
            centre = np.average(models.means[values] - moved, axis=0, weights=models.rows[values])
            found[values] = centre + moved
    return found


def _inverse(covariance: Float64[np.ndarray, "A A"]) -> Float64[np.ndarray, "A A"]:
    """The inverse, large where the covariance is singular."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors / np.maximum(values, _LEAST * values[-1])) @ vectors.T


def _variances(codes: Float64[np.ndarray, "C A"], precision: Float64[np.ndarray, "A A"]) -> np.ndarray:
    """The variances (C, C) of the estimated difference of each two values, up to a common factor."""
    of_pairs = codes @ precision @ codes.T
    own = np.diag(of_pairs)
    return own[:, None] + own - 2 * of_pairs
