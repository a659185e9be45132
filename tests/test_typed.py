"""The public API as a user's type checker and a user's console see it."""

import subprocess
import sys

import pytest

import lbae
from tests.conftest import ROOT

SCRIPT = """
import numpy as np
from typing import assert_type

import lbae


def use(bundle: lbae.Bundle) -> float:
    images = bundle.sample(4, seed=0, given={"label=7": True})
    edited, changed = bundle.edit(images, ["label=7"], strength=0.8)
    latents = bundle.encode(bundle.interpolate(edited[:2], steps=5))
    lbae.grid(bundle.vary(bundle.decode(latents), 2, seed=1)).save("a.png")
    assert_type(bundle.attributes["label=7"].share, float)
    assert_type(lbae.load_model("m"), lbae.Codec)
    return float(changed.mean())


use(lbae.load_bundle("b", "cpu"))
lbae.load_bundle(3)  # mistake
lbae.load_bundel("b")  # mistake
lbae.load_bundle("b").sample("four", seed=0)  # mistake
"""


@pytest.mark.slow  # the checker reads torch's annotations anew
def test_a_strict_checker_finds_mistakes_and_no_others(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--no-error-summary"]
    config = tmp_path / "mypy.ini"
    config.write_text(f"[mypy]\nmypy_path = {ROOT}\ncache_dir = {tmp_path}/cache\n")
    done = subprocess.run(
        [*command, "--config-file", str(config), "script.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    found = {int(line.split(":")[1]) for line in done.stdout.splitlines() if " error: " in line}
    assert found == {i for i, line in enumerate(SCRIPT.splitlines(), 1) if "# mistake" in line}, done.stdout


def test_public_names_are_completed_and_exist():
    assert set(lbae.__all__) <= set(dir(lbae))
    assert all(getattr(lbae, name) for name in lbae.__all__)


def test_importing_the_package_loads_nothing_else():
    code = "import sys, lbae; print(*{'torch', 'numpy', 'ray'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
