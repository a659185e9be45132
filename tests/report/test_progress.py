from types import SimpleNamespace

import pytest

from lbae.report.progress import ProgressLine


@pytest.mark.parametrize(
    ("updates", "rate"),
    [
        ([(4, 30)], 7.5),  # a single update: since the start
        ([(4, 10), (6, 30)], 10),  # since the first update, without start-up
        ([(0, 20), (4, 30)], 2.5),  # 20 were done by an earlier run
        ([(1, 0)], 0),
    ],
)
def test_the_rate_is_meaningful_for_the_shortest_run(updates, rate, monkeypatch):
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr("lbae.report.progress.time", SimpleNamespace(monotonic=lambda: now.seconds))
    with ProgressLine("encode", 30, "images") as line:
        for seconds, done in updates:
            now.seconds = 100.0 + seconds
            line.update(done)
        assert line.rate == pytest.approx(rate)
