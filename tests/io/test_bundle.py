"""Bundles and models that are damaged, or that an attacker wrote, are refused."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from lbae.errors import LbaeError, UserError
from lbae.io.artifacts.bundle_artifact import load_bundle, read_pointer
from lbae.io.artifacts.describe import describe
from lbae.io.artifacts.model_artifact import load_model
from tests.golden.make import HERE
from tests.io.mutate_artifacts import sign, write_artifacts


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("artifacts")
    write_artifacts(root)
    return root


@pytest.fixture
def bundle(artifacts, tmp_path) -> Path:
    """A bundle with two attributes and all optional files."""
    return Path(shutil.copytree(artifacts / "bundle", tmp_path / "bundle"))


def rewrite(path: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    arrays = {key: np.array(array) for key, array in safetensors.numpy.load_file(path).items()}
    arrays[name] = change(arrays[name])
    safetensors.numpy.save_file(arrays, path)


def edit(path: Path, section: str, **fields: Any) -> None:
    tree = json.loads(path.read_text())
    tree[section].update(fields)
    path.write_text(json.dumps(tree))


def refused(bundle: Path, match: str) -> None:
    """Loading is refused with one error, although the manifest fits the files."""
    sign(bundle, "bundle")
    with pytest.raises(UserError, match=match):
        load_bundle(str(bundle), device="cpu")


def one_nan(array: np.ndarray) -> np.ndarray:
    array.flat[3] = np.nan
    return array


def fill(value: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda array: np.full_like(array, value)


def test_a_changed_prior_is_refused(bundle):
    rewrite(bundle / "prior.safetensors", "factors", lambda factors: factors / 2)
    with pytest.raises(LbaeError, match=r"do not match its manifest \(.*\); fit it again"):
        load_bundle(str(bundle), device="cpu")


@pytest.mark.parametrize(
    ("file", "name", "change", "match"),
    [
        ("prior", "factors", one_nan, "factors holds numbers that are not finite"),
        ("prior", "factors", lambda array: array[:, :-1].copy(), "has 189 numbers; allowed: 153 or 190"),
        ("prior", "factors", lambda array: np.zeros((2, 10**9, 0), np.float32), "factors is float32"),
        ("prior", "factors", lambda array: np.zeros((0, 10**15), np.float32), "is float"),
        ("prior", "weights", fill(0.5), "weights of its components are no probabilities that sum to 1"),
        ("prior", "weights", lambda array: np.array([2.0, -1.0]), "is float"),
        ("pooled", "factor", one_nan, "factor holds numbers that are not finite"),
        ("pooled", "factor", lambda array: array[:-1].copy(), "has 152 numbers; allowed: 153 or 190"),
        ("pooled", "factor", fill(0), "rows of its factor are no unit vectors"),
        ("attributes", "lift", one_nan, "lift holds numbers that are not finite"),
        ("attributes", "lift", lambda array: array[:1].copy(), r"lift is float64 \(1, 16\)"),
        ("values", "shared", fill(9), "shared go from 9 to 9; allowed: 0 to 3"),
        ("values", "attributes", fill(2), "attributes go from 2 to 2; allowed: 0 to 1"),
        ("pooled", "factor", fill(1), "rows of its factor are no unit vectors"),
        ("values", "signs", fill(0), "signs go from 0 to 0"),
        ("values", "signs", fill(-1), "has a model of its absence and none of its presence"),
        ("values", "columns", lambda array: np.arange(len(array)), "a column has a single value"),
        ("values", "shifts", fill(3e38), "shifts go from .*; allowed: -40.0 to 40.0"),
        ("values", "rows", fill(0), "rows go from 0 to 0"),
        ("values", "temperatures", fill(0), "temperatures go from 0.0 to 0.0"),
        ("values", "adjusted", one_nan, "adjusted holds numbers that are not finite"),
        ("values", "correlations", fill(2), "correlations go from 2.0 to 2.0"),
        ("values", "shifts", lambda array: array.astype(np.float64), "shifts is float64"),
        ("examples", "images", lambda array: array[:, :4].copy(), r"images is uint8 \(2, 4, 8, 3\)"),
        ("weights", "decoder.1.weight", one_nan, "decoder.1.weight holds numbers that are not finite"),
        ("weights", "decoder.1.weight", lambda array: array[:, :2].copy(), "decoder.1.weight is float32"),
    ],
)
def test_tensors_must_be_finite_and_fit_together(bundle, file, name, change, match):
    rewrite(bundle / f"{file}.safetensors", name, change)
    refused(bundle, rf"{file}\.safetensors is damaged: .*({match})")


@pytest.mark.parametrize("size", [2**20 + 1, 2**63, 2**64 - 1])
def test_an_absurd_length_of_a_header_is_refused(bundle, size):
    prior = bundle / "prior.safetensors"
    prior.write_bytes(size.to_bytes(8, "little") + prior.read_bytes()[8:])
    refused(bundle, r"prior\.safetensors is damaged: its header is longer than 1048576 bytes")


@pytest.mark.parametrize("name", ["weights.safetensors", "config.json"])
def test_a_file_larger_than_its_model_needs_is_not_read(bundle, name):
    with (bundle / name).open("r+b") as file:
        file.truncate(2**35)  # a sparse file, which takes no disk
    with pytest.raises(UserError, match=rf"{name} has 34359738368 bytes; allowed: at most \d{{7,8}}$"):
        load_bundle(str(bundle), device="cpu")


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        # These networks would take from 4 GB to many TB.
        ({"channels": [16384, 4096]}, r"weights\.safetensors is damaged: .*; allowed: float32 \("),
        ({"channels": [65536, 65536]}, r"weights\.safetensors is damaged: .*; allowed: float32 \("),
        (
            {"latent_dim": 65536},
            r"prior\.safetensors is damaged: a factor has 190 numbers; allowed: 2147581953",
        ),
        ({"channels": [10**12, 4]}, "channels is .*; allowed: 2 to 8 widths of 1 to 65536"),
        ({"channels": [4] * 60, "image_size": 2**61}, "channels is .*; allowed: 2 to 8 widths"),
        ({"channels": [4] * 8, "image_size": 512}, r"weights\.safetensors is damaged: it lacks"),
        (
            {"channels": [4] * 5, "image_size": 2048, "latent_grid": 64},
            "latent_dim is 16; allowed: multiples",
        ),
        ({"latent_dim": 16.0}, "latent_dim is 16.0; allowed: a value of type int"),
        ({"latent_dim": True}, "latent_dim is True; allowed: a value of type int"),
        ({"latent_dim": float("nan")}, "latent_dim is nan"),
        ({"latent_dim": float("inf")}, "latent_dim is inf"),
        ({"latent_dim": 10**30}, "latent_dim is 1000.*; allowed: 1 to 65536"),
        ({"channels": "44"}, "channels is"),
        ({"bottleneck": ["bernoulli"]}, "bottleneck is"),
        ({"depth": 3}, "the configuration lacks a field, or has one too many"),
    ],
)
def test_a_configuration_that_the_weights_do_not_bear_out_is_refused(bundle, fields, match):
    edit(bundle / "config.json", "model", **fields)
    refused(bundle, match)


def test_a_bundle_of_a_baseline_is_refused(bundle):
    fields = {"bottleneck": "continuous", "latent_grid": 1, "latent_dim": 32, "image_size": 16}
    edit(bundle / "config.json", "model", **fields)
    refused(bundle, "is a continuous baseline, which has no binary latents")


@pytest.mark.parametrize(
    ("section", "fields", "match"),
    [
        ("config", {"precision": "float8"}, "config.precision is 'float8'; allowed: float32, bfloat16"),
        ("config", {"sampler": ["gaussian"]}, "config.sampler is .*; allowed: hyperplane, gaussian"),
        ("result", {"attributes": "ab"}, "result.attributes is 'ab'; allowed: list"),
        ("result", {"attributes": [1, 2]}, "result.attributes is .*; allowed: strings"),
        ("result", {"attributes": ["a"] * 3}, r"prior\.safetensors is damaged: .* 3 attributes"),
    ],
)
def test_options_and_names_in_the_manifest_are_checked(bundle, section, fields, match):
    edit(bundle / "manifest.json", section, **fields)
    refused(bundle, match)


@pytest.mark.parametrize("swapped", [("prior", "pooled"), ("weights", "values"), ("attributes", "examples")])
def test_swapped_files_are_refused(bundle, swapped):
    first, second = (bundle / f"{name}.safetensors" for name in swapped)
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    refused(bundle, r"\.safetensors is damaged: it lacks the tensor")


@pytest.mark.parametrize("name", ["weights.safetensors", "config.json", "values.safetensors"])
def test_a_missing_file_is_named(bundle, name):
    (bundle / name).unlink()
    with pytest.raises(UserError, match=rf"{name} is damaged: there is no such file"):
        load_bundle(str(bundle), device="cpu")


def test_a_file_without_an_end_is_refused(bundle):
    (bundle / "prior.safetensors").unlink()
    (bundle / "prior.safetensors").symlink_to("/dev/zero")
    with pytest.raises(UserError, match=r"prior\.safetensors is a device or a pipe; allowed: a file"):
        load_bundle(str(bundle), device="cpu")
    (bundle / "config.json").unlink()
    os.mkfifo(bundle / "config.json")
    with pytest.raises(UserError, match=r"config\.json is a device or a pipe"):
        load_bundle(str(bundle), device="cpu")


def test_statistics_of_no_bits_are_refused_without_the_model(bundle):
    for name in ("mean_if_set", "mean_if_unset", "lift", "lift_error"):
        rewrite(bundle / "attributes.safetensors", name, lambda array: array[:, :0])
    with pytest.raises(UserError, match=r"attributes\.safetensors is damaged"):
        describe(str(bundle))


def test_a_pointer_has_a_limited_size(tmp_path):
    (tmp_path / "current").write_bytes(b"/" * 2**17)
    with pytest.raises(UserError, match="current has 131072 bytes; allowed: at most 65536"):
        read_pointer(str(tmp_path / "current"))


def test_a_model_with_other_weights_than_its_configuration_needs_is_refused(tmp_path):
    model = Path(shutil.copytree(HERE / "v1" / "model", tmp_path / "model"))
    edit(model / "config.json", "model", channels=[4096, 4096])
    with pytest.raises(
        UserError, match=r"weights\.safetensors is damaged: encoder.* \(2,.*; allowed: .*\(4096"
    ):
        load_model(str(model), device="cpu")
