"""Models of the latents with each value of an attribute column; an edit exchanges one for another.

A yes/no column has two values, a column of classes one per class.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache

import numpy as np
from jaxtyping import Float16, Float32, Float64, Int8, Int64

from lbae.core.prior.dichotomised_gaussian import DichotomisedGaussian, models_to_cache
from lbae.core.prior.gaussian import bit_mean_slopes, bit_means, negative_thresholds

# Rows per bit from which edits to a value reach it 0.94 times as often as with all rows of MNIST
# (docs/measurements.md).
_TRUSTED = 2


@dataclass(frozen=True, kw_only=True)
class ValueModels:
    """Dichotomised Gaussians of the latents with each of V values of attribute columns.

    Value v is ``signs[v]`` (+1 set, -1 unset) of the attribute at position ``attributes[v]``, in column
    ``columns[v]``, and was fitted to ``rows[v]`` rows. Its sides have the shifts ``shifts[v]`` and the
    correlation matrix ``correlations[shared[v]]``, of which the entries above the diagonal are stored, row by
    row. The likelihoods that tell values apart take ``correlations[judged[v]]``: one that values share, where
    their own tell latents apart worse that they were not fitted to. ``temperatures[v]`` divides the log
    likelihoods of v's column, which are too sure of themselves: bits are no Gaussians. ``adjusted[v]`` are
    the bits' adjusted means (:func:`lbae.core.latents.adjusted_means.adjusted_means`).
    """

    attributes: Int64[np.ndarray, "V"]
    signs: Int8[np.ndarray, "V"]
    columns: Int64[np.ndarray, "V"]
    rows: Int64[np.ndarray, "V"]
    shifts: Float32[np.ndarray, "V N"]
    shared: Int64[np.ndarray, "V"]
    judged: Int64[np.ndarray, "V"]
    correlations: Float16[np.ndarray, "G P"]
    temperatures: Float32[np.ndarray, "V"]
    adjusted: Float32[np.ndarray, "V N"]

    def __repr__(self) -> str:
        values, latent_dim = self.shifts.shape
        return f"ValueModels(values={values}, latent_dim={latent_dim})"

    def __getstate__(self) -> dict[str, np.ndarray]:
        """Pickle the arrays without the models computed from them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def of_column(self, attribute: int) -> Int64[np.ndarray, "C"]:
        """The values of an attribute's column; empty if the bundle has no models of it."""
        mine = np.flatnonzero(self.attributes == attribute)
        return np.flatnonzero(self.columns == self.columns[mine[0]]) if len(mine) else mine

    def trusted(self, attribute: int) -> bool:
        """Whether every value of an attribute was fitted to at least twice as many rows as there are bits."""
        rows = self.rows[self.attributes == attribute]
        return len(rows) > 0 and bool((rows >= _TRUSTED * self.shifts.shape[1]).all())

    @property
    def means(self) -> Float64[np.ndarray, "V N"]:
        """E[b] of each value."""
        return bit_means(self.shifts)

    def shifts_from(self, source: int, target: int) -> Float64[np.ndarray, "N"]:
        """The shifts of latents of ``source`` once they have ``target`` and all else stays."""
        step = self.adjusted[target].astype(np.float64) - self.adjusted[source]
        return negative_thresholds(bit_means(self.shifts[source]) + step, int(self.rows[target]))

    def steps(
        self, source: int, target: int
    ) -> tuple[Float64[np.ndarray, "1 N"], Float64[np.ndarray, "J N"]]:
        """The step of the sides from ``source`` to ``target``, and those of other columns, to first order.

        Every other column has a step from its first value to each of its further values. All are taken at the
        shifts of ``source``.
        """
        steps = np.empty_like(self.adjusted, dtype=np.float64)
        for column in np.unique(self.columns):
            values = np.flatnonzero(self.columns == column)
            start = source if source in values else values[0]
            steps[values] = self.adjusted[values].astype(np.float64) - self.adjusted[start]
        steps /= bit_mean_slopes(self.shifts[source])
        others = self.columns != self.columns[source]
        others[np.unique(self.columns, return_index=True)[1]] = False
        return steps[target : target + 1], steps[others]

    def log_likelihoods(
        self, values: Sequence[int], latents: Int8[np.ndarray, "K N"]
    ) -> Float64[np.ndarray, "C K"]:
        """Log likelihood, up to a constant, of the latents under each value's model.

        Values that are judged by one correlation matrix also share the bits' covariance, that of their
        average shifts.
        """
        found = np.empty((len(values), len(latents)))
        for row, value in enumerate(values):
            if self.judged[value] == self.shared[value] and (self.shared == self.shared[value]).sum() == 1:
                found[row] = self.model(value).log_likelihood(latents)
            else:
                between = self._between(int(self.judged[value]))
                found[row] = between.log_likelihood(latents, bit_means(self.shifts[value]))
        return found

    @cached_property
    def model(self) -> Callable[[int], DichotomisedGaussian]:
        """The model of a value; the last used are cached."""
        return lru_cache(models_to_cache(self.shifts.shape[1]))(
            lambda value: self._model(self.shifts[value].astype(np.float64), int(self.shared[value]))
        )

    @cached_property
    def _between(self) -> Callable[[int], DichotomisedGaussian]:
        """The model at the average shifts of all values that one correlation judges; two are cached."""

        def between(judge: int) -> DichotomisedGaussian:
            alike = self.judged == judge
            shifts = np.average(self.shifts[alike].astype(np.float64), axis=0, weights=self.rows[alike])
            return self._model(shifts, judge)

        return lru_cache(2)(between)

    def _model(self, shifts: Float64[np.ndarray, "N"], shared: int) -> DichotomisedGaussian:
        correlation, above = np.eye(len(shifts)), np.triu_indices(len(shifts), 1)
        correlation[above] = self.correlations[shared]
        correlation.T[above] = correlation[above]
        return DichotomisedGaussian(shifts=shifts, correlation=correlation)
