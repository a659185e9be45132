"""The models of attribute values that one column gets."""

import numpy as np
import pyarrow as pa
import pytest

from lbae.core.latents.packing import pack
from lbae.distributed.fit.value_models_fit import _fit_column, _joined, _measure_edits
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
    values, shifts, correlations, temperature = _fit_column._function(
        rows, 16, {j: CLASSES[j] for j in asked}, True
    )
    assert values == found
    assert temperature > 0
    assert (shifts.shape, correlations.shape) == ((len(found), 16), (len(found), 120))


def test_edited_latents_come_nearer_to_the_moments_of_those_with_the_value():
    rng, rows = np.random.default_rng(1), 4_000
    label = np.arange(rows) % 3
    loadings = rng.normal(size=(3, 12, 16))
    sides = np.einsum("kf,kfn->kn", rng.normal(size=(rows, 12)), loadings[label]) + 2 * label[:, None] - 2
    latents = np.where(sides > 0, np.int8(1), np.int8(-1))
    table = pa.table({"latent": pa.array([bytes(row) for row in pack(latents)], pa.binary(2)), "c": label})
    models = _joined([_fit_column._function(table, 16, CLASSES, True)], 16)
    found = _measure_edits._function(table, models, CLASSES)
    assert set(found) == {"c=0", "c=1", "c=2"}
    # The means of c=1 lie between the others', so only its pairs tell it from them.
    for value, name in (("c=0", "means_rms"), ("c=1", "pairs_rms"), ("c=2", "means_rms")):
        errors = found[value]
        assert errors["members"][name] < errors["edited"][name] < 0.75 * errors["before"][name]
