"""``jobs/pipeline.py``: every stage from one file, kept when it is run again, and the pointer that services follow."""

import json
import re

import pytest

from lbae.io.artifact import read_manifest
from lbae.io.bundle import read_pointer
from lbae.io.lock import locked
from lbae.report.streams import RECONSTRUCTIONS

STAGES = ("model", "latents", "moments", "bundle", "evaluation")
CONFIG = """
data = "{data}"
out = "{out}"
current = "{out}/current"
[train]
preset = "demo"
epochs = 1
[encode]
keep_images = true
[fit]
components = 1
examples = 3
[evaluate]
data = "{data}"
"""


@pytest.mark.slow
def test_all_stages_run_once(job, digits, tmp_path):
    config, out = tmp_path / "faces.toml", tmp_path / "out"
    config.write_text(CONFIG.format(data=digits, out=out))
    made, said = [], []
    for _ in range(2):
        done = job("pipeline", "--config", config)
        assert done.code == 0, done.err
        said.append(json.loads(done.out))
        made.append([read_manifest(f"{out}/{name}").created for name in STAGES])
    assert made[0] == made[1]
    first, second = said
    assert (first["out"], first["bundle"]) == (str(out), f"{out}/bundle")
    assert list(first["stages"]) == ["train", "encode", "reduce", "fit", "evaluate"]
    assert ("already" in first, second["already"]) == (False, True)
    assert second["stages"]["encode"] == {**first["stages"]["encode"], "already": True}
    assert read_pointer(f"{out}/current") == f"{out}/bundle"
    assert read_manifest(f"{out}/latents").config["keep_images"]
    assert json.loads((out / "evaluation" / "report.json").read_text())["images"][RECONSTRUCTIONS] == 600


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data = 3 4", "is not TOML: "),
        ('dta = "x"', "unknown part of the config 'dta'; did you mean 'data'"),
        ('data = "x"', "says nothing of out, train"),
        ('data = "x"\nout = "y"\n[train]\npreset = "demo"\n[evaluate]', "says nothing of evaluate.data"),
        ('data = "x"\nout = "y"\ntrain = 3', "train of config .* is 3; allowed: a table"),
        ('data = "x"\nout = "y"\nevaluate = "z"\n[train]', "evaluate of config .* is 'z'; allowed: a table"),
        ('data = "x"\nout = 3\n[train]', "out of config .* is 3; allowed: a path or a URI in quotes"),
        (
            'data = "x"\nout = "{tmp}/y"\n[train]\npreset = "demo"\nepoch = 3',
            "unknown option --epoch; did you mean --epochs",
        ),
        ('data = "x"\nout = "{tmp}/y"\n[train]\npreset = "demo"\nepochs = "x"', "Error parsing --epochs"),
    ],
)
def test_mistakes_in_the_file_are_named(job, tmp_path, text, message):
    config = tmp_path / "c.toml"
    config.write_text(text.replace("{tmp}", str(tmp_path)))
    done = job("pipeline", "--config", config)
    assert (done.code, done.out) == (2, "")
    assert re.search(message, done.error), done.error


def test_a_pipeline_runs_once_at_a_time(job, tmp_path):
    config = tmp_path / "c.toml"
    config.write_text(f'data = "x"\nout = "{tmp_path}/y"\n[train]\npreset = "demo"')
    with locked(f"{tmp_path}/y/pipeline"):
        done = job("pipeline", "--config", config)
    assert (done.code, done.out) == (2, "")
    assert f"{tmp_path}/y/pipeline is being written by" in done.error
