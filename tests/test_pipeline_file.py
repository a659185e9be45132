"""Mistakes in the file of ``jobs/pipeline.py``; tests/test_cluster.py runs one."""

import re

import pytest

from lbae.io.lock import locked


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
