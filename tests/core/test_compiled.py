"""Compiled training steps, by PyTorch's own compiler."""

import jaxtyping
import pytest
import torch

from lbae.config import ModelConfig, TrainConfig
from lbae.core.network.autoencoder import LatentBernoulliAutoencoder
from lbae.core.network.compiled import Compiled
from lbae.core.network.feed import Resident
from lbae.core.network.training import TrainState, initial_state, train_epoch
from lbae.errors import UserError

CPU, STEPS, WARM = torch.device("cpu"), 14, 9
MODEL = ModelConfig(latent_dim=16, image_size=8, image_channels=1, channels=(8, 8), latent_grid=2)
CONFIG = TrainConfig(batch_size=4, epochs=1, seed=1)


def state() -> TrainState:
    return initial_state(LatentBernoulliAutoencoder(MODEL, torch.Generator().manual_seed(1)), CONFIG)


def losses(begun: TrainState, compiled: bool, stops: tuple[int, ...] = ()) -> torch.Tensor:
    """Losses of an epoch of STEPS steps; with ``stops`` it ends after the first of them."""
    images = torch.randint(0, 256, (4 * STEPS, 8, 8, 1), dtype=torch.uint8, generator=torch.manual_seed(0))
    stepped = Compiled(begun.network, CPU) if compiled else begun.network
    return train_epoch(begun, stepped, Resident(images, 4, STEPS, CONFIG.seed), CONFIG, precision="float32")


@pytest.mark.slow
def test_compiled_steps_train_as_the_others(monkeypatch):
    # The compiler cannot trace the checks of shapes that the tests add to every function.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    eager, compiled = losses(state(), False), losses(state(), True)
    assert torch.equal(eager[:WARM], compiled[:WARM]), "they run as they are until BatchNorm settles"
    torch.testing.assert_close(eager, compiled, rtol=1e-4, atol=0)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1, "nothing was compiled twice"
    assert torch.equal(compiled, losses(state(), True)), "the code does not depend on the process's history"


def test_without_a_compiler_the_message_names_it(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match="no no-such-compiler on PATH; install one"):
        Compiled(state().network, CPU)
