"""Checkpoints of two workers inside an epoch, restored by as many workers or by another number."""

import dataclasses

import pytest
import torch

from lbae.config import ModelConfig, TrainConfig
from lbae.core.network.autoencoder import LatentBernoulliAutoencoder
from lbae.core.network.feed import Resident
from lbae.core.network.training import TrainState, initial_state, train
from lbae.io.artifacts.training_checkpoint import load_checkpoint, load_network, save_checkpoint

MODEL = ModelConfig(latent_dim=16, image_size=32, image_channels=1, channels=(8, 8, 8))
CONFIG = TrainConfig(loss="mse", batch_size=4, epochs=3)
STATISTIC = "encoder.1.running_mean"


def new(seed: int) -> TrainState:
    network = LatentBernoulliAutoencoder(MODEL, torch.Generator().manual_seed(seed))
    return initial_state(network, CONFIG)


def feed_of(worker: int, batch: int = 4, steps: int = 8) -> Resident:
    generator = torch.Generator().manual_seed(worker)
    images = torch.randint(256, (32, 32, 32, 1), generator=generator, dtype=torch.uint8)
    return Resident(images, batch, steps, 0)


class Stop(Exception):
    """Ends a run at a stop."""


def interrupted(worker: int, epochs: int, steps: int) -> TrainState:
    """The state of a run that ends after some epochs and steps."""
    state = new(1)

    def stop(state: TrainState) -> None:
        if (len(state.history), len(state.losses)) == (epochs, steps):
            raise Stop

    feed = feed_of(worker)
    with pytest.raises(Stop):
        train(
            state, state.network, feed, feed(0).__next__()[:0], CONFIG, precision="float32", worker=worker,
            on_stop=stop, on_epoch=stop,
        )  # fmt: skip
    return state


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The states of two workers after five of eight steps of the second epoch, and their checkpoint."""
    folder = tmp_path_factory.mktemp("checkpoint")
    states = [interrupted(worker, 1, 5) for worker in (0, 1)]
    for worker, state in enumerate(states):
        save_checkpoint(folder, state, feed_of(worker), worker, bad=worker + 1)
    return states, folder


@pytest.mark.parametrize("worker", [0, 1])
def test_as_many_workers_get_their_own_losses_and_statistics_back(saved, worker):
    states, folder = saved
    state = new(2)
    assert load_checkpoint(folder, state, feed_of(worker), worker, 2) == worker + 1
    assert state.history == states[0].history
    assert torch.equal(state.losses, states[worker].losses)
    statistics = [one.network.state_dict()[STATISTIC] for one in (state, *states)]
    assert torch.equal(statistics[0], statistics[1 + worker])
    assert not torch.equal(statistics[1], statistics[2])


@pytest.mark.parametrize(("workers", "batch", "steps", "done"), [(1, 8, 4, 2), (3, 2, 12, 7), (4, 32, 1, 0)])
def test_another_number_of_workers_continues_no_further_into_the_epoch(saved, workers, batch, steps, done):
    states, folder = saved
    feed, bad = feed_of(0, batch, steps), 0
    for worker in range(workers):
        state = new(2)
        bad += load_checkpoint(folder, state, feed, worker, workers)
        assert len(state.losses) == done
        mean = torch.stack([one.losses for one in states]).mean()
        torch.testing.assert_close(state.losses, mean.repeat(done))
        statistics = [one.network.state_dict()[STATISTIC] for one in (state, *states)]
        torch.testing.assert_close(statistics[0], (statistics[1] + statistics[2]) / 2)
    assert bad == 3


def test_a_run_interrupted_in_two_epochs_ends_as_one_that_was_not(tmp_path):
    whole = new(1)
    feed, none = feed_of(0), torch.empty((0, 32, 32, 1), dtype=torch.uint8)
    train(whole, whole.network, feed, none, CONFIG, precision="float32")
    for place in ((0, 3), (1, 0), (2, 7)):
        folder = tmp_path / "-".join(map(str, place))
        folder.mkdir()
        save_checkpoint(folder, interrupted(0, *place), feed, 0)
        state = new(2)
        load_checkpoint(folder, state, feed, 0, 1)
        train(state, state.network, feed, none, CONFIG, precision="float32")
        assert state.history == whole.history


def test_a_checkpoint_of_an_epochs_end_is_one_file_as_in_earlier_versions(tmp_path):
    state = interrupted(0, 1, 0)
    for worker in (0, 1):
        save_checkpoint(tmp_path, state, feed_of(worker), worker)
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]
    content = torch.load(tmp_path / "state.pt", weights_only=True)
    assert list(content) == ["network", "optimizer", "history"]
    assert content["history"] == [dataclasses.asdict(epoch) for epoch in state.history]
    assert torch.equal(load_network(tmp_path)[STATISTIC], state.network.state_dict()[STATISTIC])


def test_losses_are_saved_without_the_memory_of_later_steps(tmp_path):
    state = new(1)
    state.losses = torch.zeros(10**6, dtype=torch.float64)[:3]
    save_checkpoint(tmp_path, state, feed_of(1), 1)
    assert (tmp_path / "worker-1.pt").stat().st_size < 10**5
