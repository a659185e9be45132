from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from lbae.core.latents.adjusted_means import adjusted_means
from lbae.core.latents.exchange import exchange
from lbae.core.latents.packing import pack
from lbae.core.latents.value_models import ValueModels
from lbae.core.moments.moment_accumulator import sum_packed
from tests.core.test_exchange import BITS, value_models

ROWS = 6000


def adjusted_models(latents: np.ndarray, columns: Sequence[np.ndarray]) -> ValueModels:
    """Models of yes/no columns (K, 1) and class columns (K, C), with their adjusted means."""
    present = np.concatenate(columns, axis=1)
    names = tuple(f"a{i}" for i in range(present.shape[1]))
    models = value_models(latents, columns)
    return replace(
        models,
        adjusted=adjusted_means(models, sum_packed(pack(latents), BITS, names, present, ~present)),
    )


def latents_of(columns: Sequence[np.ndarray], seed: int) -> np.ndarray:
    """Latents (K, N) of which bits 8 k to 8 k + 7 depend on the labels (K,) of column k only."""
    rng = np.random.default_rng(seed)
    chance = np.full((len(columns[0]), BITS), 0.5)
    for number, labels in enumerate(columns):
        tables = rng.uniform(0.1, 0.9, size=(labels.max() + 1, 8))
        chance[:, 8 * number : 8 * number + 8] = tables[labels]
    return np.where(rng.random(chance.shape) < chance, np.int8(1), np.int8(-1))


def one_hot(labels: np.ndarray) -> np.ndarray:
    return np.eye(labels.max() + 1, dtype=bool)[labels]


@pytest.fixture(scope="module")
def together() -> tuple[list[np.ndarray], np.ndarray]:
    """A column of three classes, a yes/no column that mostly goes with its last class, and latents."""
    rng = np.random.default_rng(0)
    classes = rng.integers(3, size=ROWS)
    yes = np.where(rng.random(ROWS) < 0.8, classes == 2, rng.random(ROWS) < 0.5).astype(int)
    return [one_hot(classes), yes[:, None] > 0], latents_of([classes, yes], 1)


def test_adjusted_means_differ_by_what_the_value_alone_changes(together):
    columns, latents = together
    models = adjusted_models(latents, columns)
    design = np.concatenate([*columns], axis=1).astype(float)
    weights, *_ = np.linalg.lstsq(design, latents.astype(float), rcond=None)  # classes sum to 1
    np.testing.assert_allclose(models.adjusted[:3] - models.adjusted[0], weights[:3] - weights[0], atol=1e-6)
    np.testing.assert_allclose(models.adjusted[3] - models.adjusted[4], weights[3], atol=1e-6)
    rows = [column.sum() for column in columns[0].T]
    np.testing.assert_allclose(
        np.average(models.adjusted[:3], axis=0, weights=rows), latents.mean(axis=0), atol=1e-6
    )


def test_an_edit_keeps_the_attribute_that_mostly_goes_with_the_one_that_is_set(together):
    columns, latents = together
    start = latents[columns[0][:, 0] & ~columns[1][:, 0]]
    moved = [
        (exchange(models, tuple("abcd"), start, {2: 1}, 1.0) - start).mean(axis=0, dtype=float)
        for models in (adjusted_models(latents, columns), value_models(latents, columns))
    ]
    asked, other = (
        latents[column].mean(axis=0) - latents[before].mean(axis=0)
        for column, before in ((columns[0][:, 2], columns[0][:, 0]), (columns[1][:, 0], ~columns[1][:, 0]))
    )
    asked[8:], other[:8] = 0, 0
    assert min(step @ asked for step in moved) > 0.8 * asked @ asked
    assert moved[0] @ other < 0.3 * moved[1] @ other


def test_one_column_keeps_its_own_means(together):
    columns, latents = together
    for column in columns:
        models = adjusted_models(latents, [column])
        np.testing.assert_allclose(models.adjusted, models.means, atol=1e-6)


def test_columns_that_determine_each_other_keep_their_own_means():
    rng = np.random.default_rng(3)
    fine, other = rng.integers(6, size=ROWS), rng.integers(2, size=ROWS)
    latents = latents_of([fine, other], 4)
    for copy in (one_hot(fine // 2), one_hot(fine), (fine == 1)[:, None]):
        models = adjusted_models(latents, [one_hot(fine), copy, other[:, None] > 0])
        same = models.columns < 2
        np.testing.assert_array_equal(models.adjusted[same], models.means[same].astype(np.float32))
        assert (models.adjusted[~same] != models.means[~same]).any()
