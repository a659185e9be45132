"""When training workers make a checkpoint inside an epoch: every few minutes, and when a node will be lost.

A checkpoint is a collective of all workers, so they must agree. At some stops of the epoch, about five
seconds apart, worker 0 decides for all: whether a checkpoint is due, and after how many stops they meet
again. Between these, a stop costs nothing.
"""

import time

import ray.train
import ray.train.collective

_LOOK_S = 5.0  # Ray Train looks for announced losses of nodes as often


class CheckpointPace:
    """Agrees with all other workers on the stops at which a checkpoint is due."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._saved = self._looked = time.monotonic()
        self._stops, self._apart = 0, 1
        self._announced: set[str] = set()

    def due(self) -> bool:
        """Count a stop, and say whether to make a checkpoint now; the same for all workers."""
        self._stops += 1
        if self._stops < self._apart:
            return False
        now = time.monotonic()
        apart = stops_apart(self._stops, now - self._looked, min(_LOOK_S, self._every_s))
        waited, self._apart = ray.train.collective.broadcast_from_rank_zero(
            (now - self._saved >= self._every_s, apart)
        )
        self._stops, self._looked = 0, now
        return self._node_will_be_lost() or waited

    def saved(self) -> None:
        """Measure the time to the next checkpoint from now."""
        self._saved = time.monotonic()

    def _node_will_be_lost(self) -> bool:
        """Whether the loss of a worker's node is announced; once for each node."""
        notice = ray.train.get_preemption_info()
        new = set(notice.preempted_node_ids if notice else ()) - self._announced
        self._announced |= new
        return bool(new)


def stops_apart(stops: int, took_s: float, wanted_s: float) -> int:
    """The number of stops that take about ``wanted_s``, if ``stops`` took ``took_s``.

    At most twice as many as before, because the first steps on a GPU return before they are computed.
    """
    return max(1, min(2 * stops, int(stops * wanted_s / max(took_s, 1e-9))))
