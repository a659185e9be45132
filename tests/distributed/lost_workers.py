"""Run by test_lost_workers: train twice, once undisturbed, once with workers killed inside epochs.

``python -m tests.distributed.lost_workers DATA OUT WORKERS KILLS`` prints one line of JSON.
"""

import json
import logging
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import ray
from ray.util.state import list_actors

from lbae.jobs.build.train import train

OPTIONS = {"preset": "demo", "epochs": 3, "batch_size": 16, "seed": 3}


class Killer(threading.Thread):
    """Kills a random worker at a random time after each new checkpoint of a run, ``kills`` times."""

    def __init__(self, run: Path, kills: int) -> None:
        super().__init__()
        self._snapshot, self._kills = run / "checkpoint_manager_snapshot.json", kills
        self.places: list[str] = []  # the newest checkpoint at each kill
        self.over = threading.Event()

    def run(self) -> None:
        """Kill until the run is over."""
        chance, lost = random.Random(1), set[int]()
        while len(self.places) < self._kills and not self.over.wait(0.05):
            newest = self._newest()
            if newest and newest not in self.places[-1:]:
                time.sleep(chance.uniform(0, 0.5))
                pids = alive()
                if pids and lost.isdisjoint(pids):  # the workers have been restarted since the last kill
                    os.kill(chance.choice(pids), signal.SIGKILL)
                    self.places.append(newest)
                    lost = set(pids)

    def _newest(self) -> str | None:
        try:
            return json.loads(self._snapshot.read_text())["latest_checkpoint_result"]["checkpoint_dir_name"]
        except (FileNotFoundError, json.JSONDecodeError):  # not yet, or being written
            return None


def alive() -> list[int]:
    """Process ids of the training workers of the connected Ray."""
    address = ray.get_runtime_context().gcs_address  # there may be other clusters on this machine
    filters = [("class_name", "=", "RayTrainWorker"), ("state", "=", "ALIVE")]
    found = list_actors(address=address, filters=filters)
    return sorted(actor.pid for actor in found if actor.pid)


class Restarts(logging.Handler):
    """Keeps the line on restarts."""

    line = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record's message if it is that line."""
        if "restarted" in record.getMessage():
            self.line = record.getMessage()


def both(data: str, out: str, workers: int, kills: int) -> dict[str, Any]:
    """Facts of an undisturbed run and of one that lost workers."""
    options = {**OPTIONS, "data": data, "workers": workers}
    began = time.monotonic()
    whole = train(**options, out=f"{out}/whole", keep=100)
    quiet_s = time.monotonic() - began
    killer = Killer(Path(out, "m-checkpoints", "run"), kills)
    restarts = Restarts(logging.INFO)
    logger = logging.getLogger("lbae.distributed.train.trainer")
    logger.addHandler(restarts)
    logger.setLevel(logging.INFO)
    killer.start()
    try:
        disturbed = train(**options, out=f"{out}/m", checkpoint_minutes=0.002)
    finally:
        killer.over.set()
        killer.join()
        logger.removeHandler(restarts)
    return {
        "whole": whole["history"],
        "disturbed": disturbed["history"],
        "checkpoints_of_whole": len(list(Path(out, "whole-checkpoints", "run").glob("checkpoint_*/"))),
        "kills": len(killer.places),
        "restarts": restarts.line,
        "seconds": [round(quiet_s, 1), round(time.monotonic() - began - quiet_s, 1)],
    }


if __name__ == "__main__":
    ray.init(address="local", num_cpus=2, object_store_memory=2**28, log_to_driver=False)
    facts = both(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    print(json.dumps({**facts, "equal": facts["whole"] == facts["disturbed"]}))
    ray.shutdown()
