"""Check requirements.lock for known security advisories; `make lint` runs this. Skipped without network."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
AUDIT = [
    sys.executable,
    "-m",
    "pip_audit",
    "--no-deps",
    "--disable-pip",
    "--progress-spinner",
    "off",
    "--timeout",
    "10",
]


def reachable(pin: str) -> bool:
    """Whether the advisory service answers for one pinned package, without hashes.

    If it does not, pip-audit fails or skips the package.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(pin)
        file.flush()
        done = subprocess.run(
            [*AUDIT, "-f", "json", "-r", file.name], capture_output=True, text=True, check=False
        )
    return bool(done.stdout) and not any(
        "skip_reason" in found for found in json.loads(done.stdout)["dependencies"]
    )


def main() -> int:
    """Run the audit and return its exit code."""
    lock = ROOT / "requirements.lock"
    first = next(line for line in lock.read_text().splitlines() if line[:1].isalpha())
    if not reachable(first.rstrip(" \\")):
        print("pip-audit: skipped, the advisory service cannot be reached")
        return 0
    return subprocess.run([*AUDIT, "-r", lock], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
