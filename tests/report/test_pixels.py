"""Errors of reconstructions and the rates of image formats."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.functional.image import structural_similarity_index_measure

from lbae.report.evaluation.lossy_formats import rate_curve, recompressed
from lbae.report.features.pixels import pixel_sums, structural_similarity


@pytest.fixture
def images() -> np.ndarray:
    across = np.linspace(0, 255, 32)
    smooth = (across[:, None] + across[None]) / 2
    noise = np.random.default_rng(0).normal(0, 12, (5, 32, 32, 3))
    return np.clip(smooth[None, :, :, None] + noise, 0, 255).astype(np.uint8)


def test_pixel_sums_do_not_depend_on_the_batches(images):
    other = np.roll(images, 1, axis=1)
    whole = pixel_sums(images, other, None)
    parts = [pixel_sums(images[i : i + 2], other[i : i + 2], None) for i in range(0, 5, 2)]
    for name, total in whole.items():
        assert sum(part[name] for part in parts) == pytest.approx(total)
    assert whole["mse"] == pytest.approx(
        np.square(images / 255 - other / 255).mean(axis=(1, 2, 3)).sum(), rel=1e-5
    )
    assert pixel_sums(images, images, None) == pytest.approx({"mse": 0, "ssim": 5})


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [6, 28])
def test_structural_similarity_is_torchmetrics(channels, side):
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(7, channels, side, side, generator=generator)
    noise = torch.randn(a.shape, generator=generator) * torch.linspace(0, 1, 7)[:, None, None, None]
    b = (a + noise).clamp(0, 1)
    theirs = structural_similarity_index_measure(a, b, data_range=1.0, reduction="none")
    assert structural_similarity(a, b).numpy() == pytest.approx(theirs.numpy(), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("form", ["jpeg", "webp"])
def test_rates_are_those_of_the_files_and_grow_with_quality(images, form):
    curve = rate_curve(images, form, qualities=(5, 50, 95))
    sizes = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, form, quality=5)
        sizes.append(len(buffer.getvalue()))
    assert curve[0][0] == pytest.approx(8 * np.mean(sizes) / 32**2)
    assert curve == sorted(curve)
    assert [quality for _, quality in curve] == sorted(quality for _, quality in curve)


def test_grey_images_stay_grey(images):
    size, shown = recompressed(images[0, ..., :1], "webp", quality=90)
    assert size > 0
    assert shown.shape == (32, 32, 1)
