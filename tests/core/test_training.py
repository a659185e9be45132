import contextlib
import dataclasses

import pytest
import torch
from torch.nn import functional

from lbae.config import ModelConfig, TrainConfig
from lbae.core.network import LatentBernoulliAutoencoder
from lbae.core.training import initial_state, learning_rate, reconstruction_loss, train, train_epoch

MODEL = ModelConfig(latent_dim=16, image_size=32, image_channels=1, channels=(8, 8, 8))
CONFIG = TrainConfig(loss="mse", batch_size=16, epochs=4, learning_rate=3e-3)


def squares(count: int) -> torch.Tensor:
    """Images of a bright square somewhere."""
    generator = torch.Generator().manual_seed(0)
    images = torch.zeros(count, 32, 32, 1, dtype=torch.uint8)
    for image in images:
        top, left = torch.randint(0, 20, (2,), generator=generator).tolist()
        image[top : top + 12, left : left + 12] = 255
    return images


def run(config: TrainConfig, epochs: int, state=None):
    state = state or initial_state(LatentBernoulliAutoencoder(MODEL, torch.Generator().manual_seed(1)), config)
    images = squares(80)
    seen = []

    def stop(current):
        seen.append(len(current.history))
        if len(seen) == epochs:
            raise StopIteration

    with contextlib.suppress(StopIteration):
        train(
            state,
            state.network,
            images[:64],
            images[64:],
            config,
            batch=16,
            steps=4,
            precision="float32",
            on_epoch=stop,
        )
    return state


@pytest.mark.parametrize("loss", ["mse", "bce"])
def test_loss_is_summed_over_pixels_and_averaged_over_the_batch(loss):
    logits, images = torch.randn(3, 1, 4, 4), torch.rand(3, 1, 4, 4)
    prediction = torch.sigmoid(logits)
    each = functional.mse_loss if loss == "mse" else functional.binary_cross_entropy
    expected = sum(each(p, x, reduction="sum") for p, x in zip(prediction, images, strict=True)) / 3
    torch.testing.assert_close(reconstruction_loss(logits, images, loss), expected)


def test_training_learns():
    history = run(dataclasses.replace(CONFIG, epochs=8), 8).history
    assert history[-1].train_loss < 0.6 * history[0].train_loss
    assert [epoch.number for epoch in history] == list(range(1, 9))


def test_a_run_continued_from_its_state_equals_one_that_never_stopped():
    whole = run(CONFIG, 4)
    half = run(CONFIG, 2)
    continued = initial_state(LatentBernoulliAutoencoder(MODEL), CONFIG)
    continued.network.load_state_dict(half.network.state_dict())
    continued.optimizer.load_state_dict(half.optimizer.state_dict())
    continued.history = list(half.history)
    assert run(CONFIG, 4, continued).history == whole.history


def test_a_run_without_held_out_images_has_no_validation_loss():
    state = initial_state(LatentBernoulliAutoencoder(MODEL), CONFIG)
    images = squares(32)
    train(state, state.network, images, images[:0], CONFIG, batch=16, steps=2, precision="float32")
    assert [epoch.validation_loss for epoch in state.history] == [None] * 4


def test_running_statistics_forget_where_they_started():
    """After one step they are those of its batch, so that evaluation mode works from the first epoch on."""
    state = initial_state(LatentBernoulliAutoencoder(MODEL, torch.Generator().manual_seed(1)), CONFIG)
    train_epoch(state, state.network, squares(16), CONFIG, batch=16, steps=1, precision="float32")
    assert state.network.encoder[1].running_var.max() < 0.1  # the weights are N(0, 0.02), the initial variance 1


def test_learning_rate_warms_up_and_ends_near_zero():
    rates = [learning_rate(step, 100, CONFIG) for step in range(100)]
    assert rates[0] < rates[4] < rates[5] == max(rates) == CONFIG.learning_rate
    assert rates[-1] < 0.01 * CONFIG.learning_rate
    assert rates[5:] == sorted(rates[5:], reverse=True)


def test_a_loss_that_is_not_finite_stops_the_run():
    state = initial_state(LatentBernoulliAutoencoder(MODEL), CONFIG)
    torch.nn.init.constant_(state.network.decoder[-1].bias, float("nan"))
    with pytest.raises(FloatingPointError, match="training loss became nan in epoch 1"):
        run(CONFIG, 4, state)
