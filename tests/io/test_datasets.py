"""``torchvision:NAME``, from files laid out as torchvision's download leaves them."""

import hashlib
import io
import pickle
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from torchvision import datasets

from lbae.config import ModelConfig
from lbae.errors import LbaeError, UserError
from lbae.io.sources.decode import decode_every
from lbae.io.sources.plan import plan
from lbae.io.sources.source import read_batches


def idx(path: Path, values: np.ndarray) -> None:
    """Write a file in MNIST's format: magic number with the number of dimensions, shape, bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack(f">I{values.ndim}I", 0x0800 + values.ndim, *values.shape) + values.tobytes())


@pytest.fixture
def downloads(tmp_path, monkeypatch) -> Path:
    """The folder where torchvision looks for earlier downloads."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LBAE_CACHE", str(tmp_path / "cache"))
    return tmp_path / ".cache" / "lbae" / "downloads"


def planted(folder: Path, name: str, data: bytes) -> str:
    """Write a file and return the checksum that torchvision expects."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    return hashlib.md5(data).hexdigest()


def test_cifar10(downloads, monkeypatch):
    rng, folder = np.random.default_rng(0), downloads / "cifar-10-batches-py"
    images, labels = rng.integers(0, 256, (60, 32, 32, 3), dtype=np.uint8), rng.integers(0, 10, 60).tolist()
    names, sums = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"], {}
    for index, name in enumerate(names):
        some = slice(10 * index, 10 * index + 10)
        data = images[some].transpose(0, 3, 1, 2).reshape(10, -1)
        sums[name] = planted(folder, name, pickle.dumps({"data": data, "labels": labels[some]}))
    meta = {
        **datasets.CIFAR10.meta,
        "md5": planted(folder, "batches.meta", pickle.dumps({"label_names": ["cat"]})),
    }
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [[name, sums[name]] for name in names[:5]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    for uri, some in (("torchvision:cifar10", slice(0, 50)), ("torchvision:cifar10:test", slice(50, 60))):
        (part,) = decode_every(plan(uri), ModelConfig(image_channels=3))
        np.testing.assert_array_equal(part.images, images[some])
        assert part.rows["label"].to_pylist() == labels[some]


def test_celeba(downloads, monkeypatch):
    folder, names = downloads / "celeba", [f"{number:06d}.jpg" for number in range(1, 7)]
    rng, faces = np.random.default_rng(0), {}
    for name in names:
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (218, 178, 3), dtype=np.uint8)).save(buffer, "JPEG")
        faces[name] = buffer.getvalue()
        planted(folder / "img_align_celeba", name, faces[name])
    split = dict(zip(names, (0, 0, 1, 2, 0, 2), strict=True))  # training, validation and test images
    smiling = dict(zip(names, (1, -1, 1, 1, 1, -1), strict=True))
    texts = {  # like the original, the attributes' header ends with a space
        "list_attr_celeba.txt": "6\nSmiling Male \n"
        + "".join(f"{name} {smiling[name]:2d} -1\n" for name in names),
        "identity_CelebA.txt": "".join(f"{name} 7\n" for name in names),
        "list_bbox_celeba.txt": "6\nimage_id x_1\n" + "".join(f"{name} 95\n" for name in names),
        "list_landmarks_align_celeba.txt": "6\nlefteye_x\n" + "".join(f"{name} 69\n" for name in names),
        "list_eval_partition.txt": "".join(f"{name} {split[name]}\n" for name in names),
    }
    files = [("", planted(folder, name, text.encode()), name) for name, text in texts.items()]
    monkeypatch.setattr(datasets.CelebA, "file_list", files)
    for uri, number in (("torchvision:celeba", 0), ("torchvision:celeba:test", 2)):
        source = plan(uri)
        rows = pa.concat_tables(table for shard in source.shards for table in read_batches(shard))
        wanted = [name for name in names if split[name] == number]
        assert rows["bytes"].to_pylist() == [faces[name] for name in wanted]
        assert rows["Smiling"].to_pylist() == [smiling[name] == 1 for name in wanted]
        assert not any(rows["Male"].to_pylist())
        (part,) = decode_every(source, ModelConfig(image_channels=3))
        assert part.images.shape == (len(wanted), 32, 32, 3)


def test_a_failed_download_says_why(downloads, monkeypatch):
    monkeypatch.setattr(datasets.CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    with pytest.raises(
        LbaeError, match=r"torchvision:cifar10 could not be downloaded by torchvision: .*refused"
    ):
        plan("torchvision:cifar10")


def test_a_torchvision_data_set_becomes_an_image_table_once(downloads, tmp_path):
    rng = np.random.default_rng(0)
    images, labels = (
        rng.integers(0, 256, (30, 28, 28), dtype=np.uint8),
        rng.integers(0, 10, 30).astype(np.uint8),
    )
    raw = downloads / "MNIST" / "raw"
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


def test_unknown_names_and_splits_are_refused():
    with pytest.raises(UserError, match="unknown torchvision data set 'mnst'; did you mean 'mnist'"):
        plan("torchvision:mnst")
    with pytest.raises(UserError, match="unknown split 'tst'; did you mean 'test'"):
        plan("torchvision:mnist:tst")


def test_an_unwritable_cache_is_named_with_the_variable_to_set(monkeypatch):
    monkeypatch.delenv("LBAE_CACHE", raising=False)
    monkeypatch.setenv("HOME", "/proc")
    with pytest.raises(UserError, match=r"the cache /proc/.cache/lbae cannot be created .*set LBAE_CACHE"):
        plan("torchvision:mnist")
