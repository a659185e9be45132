"""``torchvision:mnist`` from files as its download leaves them."""

import struct
from pathlib import Path

import numpy as np
import pytest

from lbae.config import ModelConfig
from lbae.errors import UserError
from lbae.io.decode import decode_every
from lbae.io.plan import plan


def idx(path: Path, values: np.ndarray) -> None:
    """A file of MNIST's format: magic number with the dimensions, shape, bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack(f">I{values.ndim}I", 0x0800 + values.ndim, *values.shape) + values.tobytes())


def test_a_data_set_of_torchvision_becomes_an_image_table_once(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LBAE_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (30, 28, 28), dtype=np.uint8), rng.integers(0, 10, 30).astype(np.uint8)
    raw = tmp_path / ".cache" / "lbae" / "downloads" / "MNIST" / "raw"
    for split in ("train", "t10k"):
        idx(raw / f"{split}-images-idx3-ubyte", images)
        idx(raw / f"{split}-labels-idx1-ubyte", labels)
    source = plan("torchvision:mnist")
    (part,) = decode_every(source, ModelConfig(image_channels=1, padding=2))
    np.testing.assert_array_equal(part.images[..., 0], images)
    assert part.rows["label"].to_pylist() == labels.tolist()
    written = (tmp_path / "cache" / "mnist-train" / "manifest.json").stat().st_mtime_ns
    assert plan("torchvision:mnist").fingerprint == source.fingerprint
    assert (tmp_path / "cache" / "mnist-train" / "manifest.json").stat().st_mtime_ns == written
    assert plan("torchvision:mnist:test").uri.endswith("cache/mnist-test")


def test_other_names_and_splits_are_refused():
    with pytest.raises(UserError, match="unknown data set of torchvision 'mnst'; did you mean 'mnist'"):
        plan("torchvision:mnst")
    with pytest.raises(UserError, match="unknown split 'tst'; did you mean 'test'"):
        plan("torchvision:mnist:tst")
