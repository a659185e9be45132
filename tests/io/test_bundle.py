"""Damaged bundles are refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from lbae.errors import LbaeError
from lbae.io.artifacts.bundle_artifact import _FILES, load_bundle
from lbae.io.storage.digests import digest
from tests.golden.make import HERE


@pytest.fixture
def bundle(tmp_path) -> Path:
    return Path(shutil.copytree(HERE / "v1" / "bundle", tmp_path / "bundle"))


def rewrite(path: Path, name: str, change) -> None:
    arrays = {key: np.array(array) for key, array in safetensors.numpy.load_file(path).items()}
    arrays[name] = change(arrays[name])
    safetensors.numpy.save_file(arrays, path)


def sign(bundle: Path) -> None:
    """Make the manifest's fingerprint match the files."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["fingerprint"] = digest(*((bundle / file).read_bytes() for file in _FILES.values()))
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def one_nan(array: np.ndarray) -> np.ndarray:
    array.flat[3] = np.nan
    return array


@pytest.mark.parametrize(("file", "name"), [("prior", "factors"), ("pooled", "factor")])
@pytest.mark.parametrize("change", [one_nan, lambda array: np.ascontiguousarray(array[..., :-1])])
def test_factors_must_be_triangles_of_finite_numbers(bundle, file, name, change):
    rewrite(bundle / f"{file}.safetensors", name, change)
    sign(bundle)
    with pytest.raises(LbaeError, match="a factor in the bundle is damaged"):
        load_bundle(str(bundle), device="cpu")


def test_a_changed_prior_is_refused(bundle):
    rewrite(bundle / "prior.safetensors", "factors", lambda factors: factors / 2)
    with pytest.raises(LbaeError, match=r"do not match its manifest \(.*\); fit it again"):
        load_bundle(str(bundle), device="cpu")
