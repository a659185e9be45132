import contextlib
import copy
import dataclasses
import itertools

import pytest
import torch
from torch.nn import functional

from lbae.config import ModelConfig, TrainConfig
from lbae.core.network.autoencoder import LatentBernoulliAutoencoder
from lbae.core.network.feed import Resident, epoch_seed, step_seed
from lbae.core.network.training import (
    evaluate,
    initial_state,
    learning_rate,
    reconstruct,
    reconstruction_loss,
    train,
    train_epoch,
)
from lbae.errors import LbaeError, UserError

MODEL = ModelConfig(latent_dim=16, image_size=32, image_channels=1, channels=(8, 8, 8))
CONFIG = TrainConfig(loss="mse", batch_size=16, epochs=4, learning_rate=3e-3)


def squares(count: int) -> torch.Tensor:
    """Images of one bright square at a random place."""
    generator = torch.Generator().manual_seed(0)
    images = torch.zeros(count, 32, 32, 1, dtype=torch.uint8)
    for image in images:
        top, left = torch.randint(0, 20, (2,), generator=generator).tolist()
        image[top : top + 12, left : left + 12] = 255
    return images


def run(config: TrainConfig, epochs: int, state=None):
    state = state or initial_state(
        LatentBernoulliAutoencoder(MODEL, torch.Generator().manual_seed(1)), config
    )
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
            Resident(images[:64], 16, 4, config.seed),
            images[64:],
            config,
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


def test_a_run_resumed_from_its_state_equals_an_uninterrupted_one():
    whole = run(CONFIG, 4)
    half = run(CONFIG, 2)
    continued = initial_state(LatentBernoulliAutoencoder(MODEL), CONFIG)
    continued.network.load_state_dict(half.network.state_dict())
    continued.optimizer.load_state_dict(half.optimizer.state_dict())
    continued.history = list(half.history)
    assert run(CONFIG, 4, continued).history == whole.history


@pytest.mark.parametrize("change", [{}, {"flips": True}], ids=["plain", "flips"])
@pytest.mark.parametrize("bottleneck", ["bernoulli", "gaussian"])
def test_a_run_resumed_inside_an_epoch_equals_an_uninterrupted_one(change, bottleneck):
    """At every stop of the run: losses and weights."""
    model = dataclasses.replace(MODEL, latent_dim=32, bottleneck=bottleneck)
    config = dataclasses.replace(CONFIG, epochs=2, **change)
    images, saved = squares(80), []

    def run_from(state, on_stop):
        feed = Resident(images[:64], 16, 4, config.seed)
        train(state, state.network, feed, images[64:], config, precision="float32", on_stop=on_stop)
        return state

    def new(seed):
        return initial_state(LatentBernoulliAutoencoder(model, torch.Generator().manual_seed(seed)), config)

    def save(state):
        parts = (state.network.state_dict(), state.optimizer.state_dict(), state.history, state.losses)
        saved.append(copy.deepcopy(parts))

    whole = run_from(new(1), save)
    assert [(len(history), len(losses)) for _, _, history, losses in saved] == [
        (0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3)
    ]  # fmt: skip
    for weights, moments, history, losses in saved:
        torch.manual_seed(0)
        state = new(2)
        state.network.load_state_dict(weights)
        state.optimizer.load_state_dict(moments)
        state.history, state.losses = list(history), losses
        assert run_from(state, lambda state: None).history == whole.history
        for name, value in whole.network.state_dict().items():
            assert torch.equal(value, state.network.state_dict()[name]), name


def test_a_run_without_held_out_images_has_no_validation_loss():
    state = initial_state(LatentBernoulliAutoencoder(MODEL), CONFIG)
    images = squares(32)
    train(state, state.network, Resident(images, 16, 2, 0), images[:0], CONFIG, precision="float32")
    assert [epoch.validation_loss for epoch in state.history] == [None] * 4


def test_running_statistics_forget_their_initial_values():
    """After one step they are those of its batch, so that evaluation mode works from the first epoch on."""
    state = initial_state(LatentBernoulliAutoencoder(MODEL, torch.Generator().manual_seed(1)), CONFIG)
    train_epoch(state, state.network, Resident(squares(16), 16, 1, 0), CONFIG, precision="float32")
    # The weights are N(0, 0.02); the initial value is 1.
    assert state.network.encoder[1].running_var.max() < 0.1


def test_learning_rate_warms_up_and_ends_near_zero():
    rates = [learning_rate(step, 100, CONFIG) for step in range(100)]
    assert rates[0] < rates[4] < rates[5] == max(rates) == CONFIG.learning_rate
    assert rates[-1] < 0.01 * CONFIG.learning_rate
    assert rates[5:] == sorted(rates[5:], reverse=True)


def test_a_loss_that_is_not_finite_stops_the_run():
    state = initial_state(LatentBernoulliAutoencoder(MODEL), CONFIG)
    torch.nn.init.constant_(state.network.decoder[-1].bias, float("nan"))
    with pytest.raises(LbaeError, match="training loss became nan in step 1, batch 1 of 4 of epoch 1"):
        run(CONFIG, 4, state)


def test_a_long_epoch_stops_soon_after_a_loss_that_is_not_finite():
    state, seen = initial_state(LatentBernoulliAutoencoder(MODEL), CONFIG), []
    torch.nn.init.constant_(state.network.decoder[-1].bias, float("nan"))
    feed = Resident(squares(2).repeat(300, 1, 1, 1), 2, 300, 0)
    with pytest.raises(LbaeError, match="training loss became nan in step 1, batch 1 of 300 of epoch 1"):
        train_epoch(state, state.network, feed, CONFIG, precision="float32", on_step=seen.append)
    assert len(seen) == 99


def test_a_held_out_loss_that_is_not_finite_stops_the_run():
    """The last step of an epoch may break the weights, and no training loss of the epoch shows it."""
    state = initial_state(LatentBernoulliAutoencoder(MODEL), CONFIG)
    bias, optimizer = state.network.decoder[-1].bias, state.optimizer
    optimizer.register_step_post_hook(
        lambda *_: optimizer.state[bias]["step"] == 4 and torch.nn.init.constant_(bias, torch.nan)
    )
    with pytest.raises(LbaeError, match="loss of the held-out images became nan after epoch 1"):
        run(CONFIG, 4, state)
    assert state.history == []


def test_test_images_are_measured_but_do_not_select_the_best_epoch():
    state = initial_state(LatentBernoulliAutoencoder(MODEL), CONFIG)
    images = squares(48)
    feed = Resident(images[:32], 16, 2, 0)
    train(state, state.network, feed, images[:0], CONFIG, precision="float32", test=images[32:])
    for epoch in state.history:
        assert epoch.criterion == epoch.train_loss != epoch.test_loss
    total, count = evaluate(state.network, images[32:], CONFIG, precision="float32")
    assert state.history[-1].test_loss == total / count


def test_large_images_are_evaluated_a_few_at_a_time():
    wide = dataclasses.replace(MODEL, image_size=256, channels=(4, 4, 4, 4, 4, 4))
    network = LatentBernoulliAutoencoder(wide)
    sizes = []
    network.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    evaluate(network, torch.zeros(20, 256, 256, 1, dtype=torch.uint8), CONFIG, precision="float32")
    assert sizes == [8, 8, 4]


def test_every_worker_and_step_draws_different_noise():
    """The generator is one for CPUs, which uses only 32 bits of a seed."""
    every = itertools.product((0, 1), range(4), range(9), range(9))
    noise = {
        torch.rand(1, generator=torch.Generator().manual_seed(step_seed(*which)), dtype=torch.float64).item()
        for which in every
    }
    assert len(noise) == 2 * 4 * 9 * 9


def test_a_generator_takes_the_largest_seed():
    torch.Generator().manual_seed(epoch_seed(TrainConfig(seed=2**63 - 1).seed, 3, 5))
    torch.Generator().manual_seed(step_seed(TrainConfig(seed=2**63 - 1).seed, 3, 10**7, 5))


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seeds_that_no_generator_takes_are_refused(seed):
    with pytest.raises(UserError, match=rf"seed is {seed}; allowed: 0 to 2\*\*63 - 1"):
        TrainConfig(seed=seed)


def test_every_epoch_shows_all_images_in_another_order():
    images = torch.arange(50, dtype=torch.uint8)[:, None, None, None]
    feed = Resident(images, 10, 5, seed=3)
    first, second, again = (torch.cat(list(feed(epoch))).flatten() for epoch in (0, 1, 0))
    assert first.sort().values.tolist() == second.sort().values.tolist() == list(range(50))
    assert first.tolist() == again.tolist() != second.tolist()


def test_an_epoch_that_is_resumed_at_a_stop_shows_the_other_images():
    images = torch.arange(50, dtype=torch.uint8)[:, None, None, None]
    feed = Resident(images, 10, 5, seed=3)
    whole = torch.cat(list(feed(1))).flatten().tolist()
    assert list(feed.stops) == [1, 2, 3, 4]
    for stop in feed.stops:
        assert torch.cat(list(feed(1, stop))).flatten().tolist() == whole[10 * stop :]


def test_flips_mirror_about_half_of_the_images():
    state = initial_state(LatentBernoulliAutoencoder(MODEL), CONFIG)
    images = torch.zeros(64, 32, 32, 1, dtype=torch.uint8)
    images[:, :, :16] = 255
    seen = []
    state.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    flips = dataclasses.replace(CONFIG, flips=True)
    train_epoch(state, state.network, Resident(images, 16, 4, 0), flips, precision="float32")
    left, right = torch.cat(seen)[:, 0, 0, 0], torch.cat(seen)[:, 0, 0, -1]
    assert (left + right == 1).all()
    assert 16 < right.sum() < 48


@pytest.mark.parametrize("bottleneck", ["bernoulli", "continuous", "gaussian"])
def test_every_bottleneck_learns_and_reconstructs_in_evaluation_mode_without_noise(bottleneck):
    model = dataclasses.replace(MODEL, latent_dim=128, bottleneck=bottleneck)
    config = dataclasses.replace(CONFIG, epochs=8)
    state = initial_state(LatentBernoulliAutoencoder(model, torch.Generator().manual_seed(1)), config)
    history = run(config, 8, state).history
    assert history[-1].train_loss < 0.8 * history[0].train_loss
    codes, images = reconstruct(state.network, squares(8), 3, precision="float32")
    assert codes.shape == (8, 128 if bottleneck == "bernoulli" else 4)
    assert images.shape == (3, 32, 32, 1)
    torch.testing.assert_close(reconstruct(state.network, squares(8), 3, precision="float32")[0], codes)


def test_resumed_gaussian_runs_draw_the_same_noise():
    model = dataclasses.replace(MODEL, latent_dim=128, bottleneck="gaussian")
    states = [
        initial_state(LatentBernoulliAutoencoder(model, torch.Generator().manual_seed(1)), CONFIG)
        for _ in range(2)
    ]
    whole, half = run(CONFIG, 4, states[0]), run(CONFIG, 2, states[1])
    torch.randn(3)  # a resumed run is another process, with another random state
    assert run(CONFIG, 4, half).history == whole.history
