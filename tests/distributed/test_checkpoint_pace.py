"""The number of stops between the meetings of workers; test_lost_workers.py has them meet."""

import pytest

from lbae.distributed.train.checkpoint_pace import stops_apart


@pytest.mark.parametrize(
    ("stops", "took_s", "apart"),
    [
        (1, 5.0, 1),  # steps of five seconds
        (1, 600.0, 1),  # a streaming feed with minutes between stops
        (1, 0.001, 2),  # the first step on a GPU returns at once
        (512, 0.5, 1024),  # faster steps: at most twice as many
        (1024, 5.0, 1024),
        (1024, 50.0, 102),  # steps became slower
        (8, 0.0, 16),
    ],
)
def test_workers_meet_about_every_five_seconds(stops, took_s, apart):
    assert stops_apart(stops, took_s, 5.0) == apart


def test_fast_steps_reach_five_seconds_within_a_few_meetings():
    apart = meetings = 1
    while apart * 0.002 < 4:
        apart, meetings = stops_apart(apart, apart * 0.002, 5.0), meetings + 1
    assert apart == 2048
    assert meetings == 12
