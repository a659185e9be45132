"""What replicas reserve; the figures are those of docs/measurements.md."""

import logging

import pytest

from lbae import presets
from lbae.distributed.serve.replica_memory import ReplicaMemory, replica_memory, reservations
from lbae.web.limits import DEFAULT_LIMITS

NEEDS = ReplicaMemory(process=10, batch=1, edits=2, requests=5)


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
    needs = replica_memory(presets.get(preset).model, 0, threads, DEFAULT_LIMITS)
    reserved_mb = (needs.process + needs.batch) / 1e6 - BARE_MB
    assert BATCHES[preset, threads] < reserved_mb < 1.5 * BATCHES[preset, threads] + 200


def test_models_of_edits_are_bounded_by_their_number_and_by_their_cache():
    sizes = [
        replica_memory(presets.get(preset).model, attributes, 1, DEFAULT_LIMITS).edits
        for preset, attributes in (("mnist", 0), ("mnist", 10), ("celeba", 40), ("celeba256", 40))
    ]
    assert sizes == [0, 20 * 32 * 200**2, 2**29, 3 * 32 * 6144**2]


def test_every_deployment_reserves_what_its_verbs_take():
    assert reservations(NEEDS, False, 2, [36]) == {"LBAE": 18}
    assert reservations(NEEDS, True, 1, [100]) == {
        "LBAE": 15,
        "Codec": 16,
        "Editor": 12,
        "Sampler": 10,
        "Interpolator": 10,
    }


@pytest.mark.parametrize(
    ("rooms", "reserved"),
    [([36], 18), ([18, 18], 18), ([35], 16), ([35, 35], 18), ([10, 18], 9), ([10, 9, 9], 9), ([0], 0)],
)
def test_small_nodes_give_every_replica_a_share(rooms, reserved, caplog):
    """Ray would else never place the replicas that do not fit."""
    with caplog.at_level(logging.WARNING):
        assert reservations(NEEDS, False, 2, rooms) == {"LBAE": reserved}
    assert ("under the worst load the replicas take 0.0 GB" in caplog.text) == (reserved < 18)
