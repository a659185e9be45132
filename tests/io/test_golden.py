"""Artifacts of every format version so far can be read, with the same content."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import lbae
from lbae.core.latents.packing import unpack
from lbae.errors import UserError
from lbae.io.artifacts.describe import describe
from lbae.io.artifacts.latent_table import open_latent_table, packed_latents
from lbae.io.artifacts.moments_artifact import load_moments
from tests import reference
from tests.golden.make import HERE, latents

VERSIONS = sorted(path for path in HERE.iterdir() if path.is_dir() and path.name.startswith("v"))


@pytest.mark.parametrize("root", VERSIONS, ids=lambda path: path.name)
def test_artifacts_of_every_format_version_can_be_read(root: Path):
    table = open_latent_table(str(root / "latents"))
    rows = pa.concat_tables(table.read(part) for part in table.parts)
    np.testing.assert_array_equal(unpack(packed_latents(rows), 11), latents())
    present = (np.array(rows["label"].to_pylist()) == 1)[:, None]
    sums, _ = load_moments(str(root / "moments"))
    np.testing.assert_array_equal(sums.sums, reference.moment_sums(latents(), present, ~present))
    bundle = lbae.load_bundle(str(root / "bundle"), device="cpu")
    assert bundle.attributes.names == ("label",)
    assert bundle.sample(3, seed=0).shape == (3, 16, 16, 1)
    assert bundle.codec.precision == "float32", "the table's precision, not this machine's best"
    model = lbae.load_model(str(root / "model"), device="cpu", precision="float32")
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 1), dtype=np.uint8)
    np.testing.assert_array_equal(model.encode(images), bundle.encode(images))
    np.testing.assert_array_equal(bundle.interpolate(images[:2], 3)[[0, 2]], bundle.reconstruct(images[:2]))
    assert bundle.edit(images, ["label"], method="bits")[1].max() > 0
    assert len(describe(str(root / "bundle"))["leading_bits"]["label"]) == 5


def test_a_bundle_without_models_of_attribute_values_says_so():
    bundle = lbae.load_bundle(str(HERE / "v1" / "bundle"), device="cpu")
    with pytest.raises(UserError, match="has no models of attribute values"):
        bundle.edit(np.zeros((1, 16, 16, 1), dtype=np.uint8), ["label"])
    with pytest.raises(UserError, match="unknown method 'bit'; did you mean 'bits'"):
        bundle.edit(np.zeros((1, 16, 16, 1), dtype=np.uint8), ["label"], method="bit")


def test_the_current_format_version_has_golden_artifacts():
    from lbae.io.artifacts.manifest import FORMAT_VERSION

    assert (HERE / f"v{FORMAT_VERSION}").is_dir()
