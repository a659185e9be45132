"""What only a GPU can show, in at most eight minutes: ``python -m tests.benchmarks.on_gpu [PART ...]``.

Prints a Markdown table under the name of the hardware, then the same as one line of JSON. Every part runs
in a process of its own with a time limit, and its rows are kept as they come. The exit code is 1 if a part
fails, and 2 without a GPU. With ``LBAE_PRETEND_GPUS=1``, all parts run at tiny sizes on CPUs; their figures
mean nothing.
"""

import json
import os
import signal
import subprocess
import sys
import time
from tempfile import TemporaryFile

import torch

from lbae.distributed.cluster.device import PRETEND_GPUS, gpus_are_pretended
from tests.conftest import ROOT

LIMITS_S = {"doctor": 30, "step": 150, "feed": 130, "encode": 50, "serve": 110}  # 470 s together
SLOW_START_S = 600  # of every part with pretended GPUs, on a busy machine


def main(parts: list[str]) -> int:
    """Run the parts, print the table, and return the exit code."""
    if not torch.cuda.is_available() and not gpus_are_pretended():
        print(
            f"skipped: torch {torch.__version__} finds no GPU here; {PRETEND_GPUS}=1 tries the script on"
            " CPUs",
            file=sys.stderr,
        )
        return 2
    name = "pretended GPUs" if gpus_are_pretended() else torch.cuda.get_device_name()
    rows, started = [], time.monotonic()
    for part in parts or LIMITS_S:
        rows += run(part, SLOW_START_S if gpus_are_pretended() else LIMITS_S[part])
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    head = (
        f"{name}, {len(os.sched_getaffinity(0))} cores, torch {torch.__version__},"
        f" {time.strftime('%Y-%m-%d')}, commit {commit or 'unknown'}, {time.monotonic() - started:.0f} s"
    )
    lines = [f"| {part} | {what} | {figure} |" for part, what, figure in rows]
    print("\n".join([head, "", "| part | what | figure |", "|---|---|--:|", *lines]))
    print(json.dumps({"hardware": head, "rows": rows}))
    return int(any(figure.startswith("FAILED") for _, _, figure in rows))


def run(part: str, limit_s: float) -> list[list[str]]:
    """The rows of a part, and one more if it fails or its time is over."""
    command = [sys.executable, "-m", "tests.benchmarks.on_gpu_parts", part]
    with TemporaryFile("w+") as out, TemporaryFile("w+") as err:
        # A session of its own, so that nothing is left behind when its time is over.
        process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=err, start_new_session=True)
        try:
            code, why = process.wait(timeout=limit_s), ""
        except subprocess.TimeoutExpired:
            code, why = 1, f"not done in {limit_s:g} s"
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
        out.seek(0), err.seek(0)
        rows = [[part, *json.loads(line)] for line in out if line.startswith("[")]
        last = (err.read().strip().splitlines() or [f"exit code {code}"])[-1]
    return [*rows, [part, "error", f"FAILED: {why or last}"]] if code else rows


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
