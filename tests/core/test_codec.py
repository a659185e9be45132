import dataclasses
import hashlib
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from lbae import presets
from lbae.config import ModelConfig
from lbae.core.network.autoencoder import LatentBernoulliAutoencoder
from lbae.core.network.codec import Codec, best_precision, rows_per_batch
from tests.conftest import ROOT


def small_codec() -> Codec:
    config = ModelConfig(latent_dim=24, image_size=16, channels=(8, 8))
    return Codec(LatentBernoulliAutoencoder(config, torch.Generator().manual_seed(0)), "float32")


def some_images(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)


def digest_of_a_call() -> str:
    codec = small_codec()
    latents = codec.encode(some_images(200))
    return hashlib.sha256(latents.tobytes() + codec.decode(latents).tobytes()).hexdigest()


@pytest.mark.parametrize("threads", [1, 3])
def test_results_do_not_depend_on_the_number_of_threads(threads):
    script = f"""
import torch
from tests.core.test_codec import digest_of_a_call, small_codec

torch.set_num_threads({threads})
print(small_codec().rows, digest_of_a_call(), torch.get_num_threads())
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.stdout.split() == [str(32 * threads), digest_of_a_call(), str(threads)], done.stderr


def test_concurrent_calls_do_not_mix_their_rows():
    codec, images = small_codec(), some_images(150)
    latents = codec.encode(images)
    with ThreadPoolExecutor(4) as callers:
        starts = range(0, 100, 7)
        found = list(callers.map(lambda start: codec.encode(images[start : start + 50]), starts))
    np.testing.assert_array_equal(found, [latents[start : start + 50] for start in starts])
    assert codec.encode(images[:0]).shape == (0, 24)


def test_an_unpickled_codec_shares_the_weights():
    """As in Ray's object store: the buffers are outside the pickle, in read-only memory."""
    codec, images = small_codec(), some_images(5)
    buffers: list[pickle.PickleBuffer] = []
    small = pickle.dumps(codec, protocol=5, buffer_callback=buffers.append)
    shared = [memoryview(bytes(buffer.raw())) for buffer in buffers]
    again = pickle.loads(small, buffers=shared)
    assert len(small) < 20_000 < sum(len(buffer) for buffer in shared)
    places = {np.frombuffer(buffer, np.uint8).ctypes.data for buffer in shared}
    assert {weights.data_ptr() for weights in again._network.state_dict().values()} <= places
    latents = again.encode(images)
    np.testing.assert_array_equal(latents, codec.encode(images))
    for moved in (again, again.to("cpu")):
        np.testing.assert_array_equal(moved.decode(latents), codec.decode(latents))


def test_batches_of_networks_larger_than_all_presets_have_fewer_rows():
    names = ("demo", "mnist", "cifar10", "celeba", "celeba128", "celeba256")
    models = [presets.get(name, recipe).model for name in names for recipe in ("modern", "paper")]
    assert {rows_per_batch(model, usual) for model in models for usual in (32, 128)} == {32, 128}
    large = ModelConfig(latent_dim=16, image_size=1024, channels=(1,) * 8, latent_grid=4)
    assert rows_per_batch(large, 32) == 4
    assert rows_per_batch(dataclasses.replace(large, channels=(65536, *large.channels[1:])), 32) == 1
    cells = ModelConfig(latent_dim=4096, image_size=256, channels=(4, 4), latent_grid=64)
    assert rows_per_batch(cells, 32) == 2


@pytest.mark.parametrize(
    ("has", "onednn", "best"),
    [
        (("avx512_f", "avx512_vnni"), True, "float32"),  # Cascade Lake and Ice Lake emulate bfloat16
        (("avx512_f", "avx512_bf16"), True, "bfloat16"),
        (("avx512_f", "amx_bf16"), True, "bfloat16"),
        (("neon", "bf16"), True, "bfloat16"),
        (("avx512_f", "avx512_bf16"), False, "float32"),
    ],
)
def test_bfloat16_is_chosen_on_cpus_with_native_products(monkeypatch, has, onednn, best):
    """Other CPUs are simulated by patching what PyTorch reports."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(has, True))
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn)
    assert best_precision(torch.device("cpu")) == best


def test_views_with_negative_strides_are_read_as_their_copies_are():
    codec, images = small_codec(), some_images(40)
    latents = codec.encode(images[:, :, ::-1])
    np.testing.assert_array_equal(latents, codec.encode(images[:, :, ::-1].copy()))
    np.testing.assert_array_equal(codec.decode(latents[::-1]), codec.decode(latents[::-1].copy()))


def test_images_and_latents_of_another_type_are_refused():
    """In a process of its own, because the annotations are checked in this one."""
    code = """
import numpy as np, lbae
from pathlib import Path
bundle = lbae.load_bundle(Path("tests/golden/v1/bundle"), "cpu")
images = bundle.sample(2, seed=0)
latents = bundle.encode(images)
for call, wrong in (
    (bundle.encode, images / 255),
    (bundle.encode, images[0]),
    (bundle.decode, latents > 0),
    (bundle.decode, (latents > 0).astype(np.int8)),
):
    try:
        call(wrong)
    except ValueError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "images are float64; allowed: uint8 from 0 to 255",
        "images have shape (16, 16, 1); this model takes (K, 16, 16, 1)",
        "latents are bool, or hold 0; allowed: int8, +1 and -1",
        "latents are int8, or hold 0; allowed: int8, +1 and -1",
    ]
