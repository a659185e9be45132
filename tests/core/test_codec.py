import pickle

import numpy as np
import pytest
import torch

from lbae.config import ModelConfig
from lbae.core.network.autoencoder import LatentBernoulliAutoencoder
from lbae.core.network.codec import Codec, best_precision


def test_a_copy_in_another_process_runs_on_the_same_weights():
    """As Ray's object store has it: buffers beside the pickle, in memory that nobody may write to."""
    config = ModelConfig(latent_dim=24, image_size=16, channels=(8, 8))
    codec = Codec(LatentBernoulliAutoencoder(config, torch.Generator().manual_seed(0)), "float32")
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
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
def test_bfloat16_is_for_cpus_that_multiply_it(monkeypatch, has, onednn, best):
    """Of CPUs that this machine has not: only what PyTorch says of its own is another's."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(has, True))
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn)
    assert best_precision(torch.device("cpu")) == best
