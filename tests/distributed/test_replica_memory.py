"""What replicas reserve; the figures are those of docs/measurements.md."""

import logging

import numpy as np
import pytest

from lbae import presets
from lbae.distributed.serve.replica_memory import (
    PROCESS_BYTES,
    ReplicaMemory,
    batch_bytes,
    models_bytes,
    reservations,
    wanted_memory,
)

NEEDS = ReplicaMemory(process=10, batch=1, edits=2, variations=1, requests=4)


# MB that the first batch of an untrained preset takes, by its number of threads.
BATCHES = {
    ("demo", 1): 38,
    ("mnist", 2): 71,
    ("cifar10", 2): 66,
    ("celeba", 1): 127,
    ("celeba", 2): 269,
    ("celeba128", 1): 233,
    ("celeba256", 1): 1007,
    ("celeba256", 4): 3167,
}
BARE_MB = 435  # a replica before its first batch


@pytest.mark.parametrize(("preset", "threads"), BATCHES)
def test_a_replica_reserves_what_its_codec_takes(preset, threads):
    reserved_mb = (PROCESS_BYTES + batch_bytes(presets.get(preset).model, threads)) / 1e6 - BARE_MB
    assert BATCHES[preset, threads] < reserved_mb < 1.5 * BATCHES[preset, threads] + 200


def test_models_are_bounded_by_their_number_and_by_their_cache():
    one = 32 * np.array([200, 200, 200, 1536, 6144]) ** 2
    found = [models_bytes(*of) for of in ((0, 200), (1, 200), (20, 200), (80, 1536), (80, 6144))]
    assert (found / one).tolist() == [0, 1, 20, 8, 3]


def test_every_deployment_reserves_what_its_verbs_take():
    assert wanted_memory(NEEDS, split=False) == {"LBAE": 18}
    wanted = {"LBAE": 14, "Codec": 15, "Editor": 12, "Sampler": 11, "Interpolator": 10}
    assert wanted_memory(NEEDS, split=True) == wanted
    assert reservations(wanted, {}, dict.fromkeys(wanted, 1), [100]) == wanted


def test_memory_that_the_user_gives_is_not_shared():
    replicas = {"Codec": 2, "Editor": 1}
    assert reservations({"Codec": 20, "Editor": 12}, {"Editor": 30}, replicas, [50]) == {
        "Codec": 10,
        "Editor": 30,
    }


@pytest.mark.parametrize(
    ("rooms", "reserved"),
    [([36], 18), ([18, 18], 18), ([35], 16), ([35, 35], 18), ([10, 18], 9), ([10, 9, 9], 9), ([0], 0)],
)
def test_small_nodes_give_every_replica_a_share(rooms, reserved, caplog):
    """Ray would else never place the replicas that do not fit."""
    with caplog.at_level(logging.WARNING):
        assert reservations({"LBAE": 18}, {}, {"LBAE": 2}, rooms) == {"LBAE": reserved}
    assert ("under the worst load the replicas take 0.0 GB" in caplog.text) == (reserved < 18)
