"""The models of attribute values that one column gets."""

import numpy as np
import pyarrow as pa
import pytest

from lbae.core.latents.packing import pack
from lbae.distributed.fit.value_models_fit import _fit_column, _joined, _measure_edits, _pooled
from lbae.io.artifacts.attribute_columns import Attribute

CLASSES = {j: Attribute(name=f"c={j}", column="c", yes=j) for j in range(3)}


@pytest.mark.parametrize(
    ("asked", "found"), [([0, 1, 2], [(0, 1, 40), (1, 1, 40), (2, 1, 40)]), ([1], [(1, 1, 40), (1, -1, 80)])]
)
def test_a_class_without_other_attributes_is_exchanged_for_all_other_rows(asked, found):
    latents = np.random.default_rng(0).choice(np.array([-1, 1], np.int8), (120, 16))
    rows = pa.table(
        {"latent": pa.array([bytes(row) for row in pack(latents)], pa.binary(2)), "c": np.arange(120) % 3}
    )
    column = _fit_column._function(
        rows, _pooled._function(rows, 16), 16, {j: CLASSES[j] for j in asked}, True
    )
    assert column.values == found
    assert column.temperature > 0
    assert (column.shifts.shape, column.correlations.shape) == ((len(found), 16), (len(found), 120))


def test_edited_latents_come_nearer_to_the_moments_of_those_with_the_value():
    rng, rows = np.random.default_rng(1), 4_000
    label = np.arange(rows) % 3
    loadings = rng.normal(size=(3, 12, 16))
    sides = np.einsum("kf,kfn->kn", rng.normal(size=(rows, 12)), loadings[label]) + 2 * label[:, None] - 2
    latents = np.where(sides > 0, np.int8(1), np.int8(-1))
    table = pa.table({"latent": pa.array([bytes(row) for row in pack(latents)], pa.binary(2)), "c": label})
    pooled = _pooled._function(table, 16)
    models = _joined([_fit_column._function(table, pooled, 16, CLASSES, True)], pooled)
    found = _measure_edits._function(table, models, CLASSES)
    assert set(found) == {"c=0", "c=1", "c=2"}
    # The means of c=1 lie between the others', so only its pairs tell it from them.
    for value, name in (("c=0", "means_rms"), ("c=1", "pairs_rms"), ("c=2", "means_rms")):
        errors = found[value]
        assert errors["members"][name] < errors["edited"][name] < 0.75 * errors["before"][name]


@pytest.mark.parametrize("by_pooled", [False, True])
def test_values_are_judged_by_what_tells_rows_apart_that_were_not_fitted(by_pooled):
    """Values that differ in their correlations, and values with the same ones and few rows of the first."""
    rng, rows, bits = np.random.default_rng(2), 3_000, 64
    has = np.arange(rows) % 12 == 0
    loadings = rng.normal(size=(2, 4, bits))
    shift = np.zeros(bits)
    if by_pooled:
        loadings[1], shift = loadings[0], rng.normal(size=bits)
    sides = np.einsum("kf,kfn->kn", rng.normal(size=(rows, 4)), loadings[has.astype(int)])
    sides += rng.normal(size=(rows, bits)) + has[:, None] * shift
    packed = pack(np.where(sides > 0, np.int8(1), np.int8(-1)))
    table = pa.table({"latent": pa.array([bytes(row) for row in packed], pa.binary(8)), "y": has})
    attributes = {0: Attribute(name="y", column="y", yes=True, no=False)}
    pooled = _pooled._function(table, bits)
    column = _fit_column._function(table, pooled, bits, attributes, True)
    assert column.by_pooled == by_pooled
    models = _joined([column], pooled)
    assert models.judged.tolist() == ([2, 2] if by_pooled else [0, 1])
    assert len(models.correlations) == (3 if by_pooled else 2)
    sides = rng.normal(size=(1_000, 4)) @ loadings[1] + rng.normal(size=(1_000, bits)) + shift
    likely = models.log_likelihoods([0, 1], np.where(sides > 0, np.int8(1), np.int8(-1)))
    assert (likely[0] > likely[1]).mean() > 0.9
