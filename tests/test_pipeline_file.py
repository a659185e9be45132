"""What a pipeline replaces, and mistakes in its file; tests/test_cluster.py runs a whole pipeline."""

import json
import re
import shutil

import pytest

from lbae.io.storage.lock import locked


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data = 3 4", "is not valid TOML: "),
        ("x" + ".x" * 20_000 + " = 1", "line 1 of .* has 20000 dots; allowed: at most 200 per line"),
        ("# " + "x" * 70_000, "has 70002 bytes; allowed: at most 65536"),
        ('dta = "x"', "unknown entry of the config 'dta'; did you mean 'data'"),
        ('data = "x"', "lacks out, train"),
        ('data = "x"\nout = "y"\n[train]\npreset = "demo"\n[evaluate]', "lacks evaluate.data"),
        ('data = "x"\nout = "y"\ntrain = 3', "train of config .* is 3; allowed: a table"),
        ('data = "x"\nout = "y"\nevaluate = "z"\n[train]', "evaluate of config .* is 'z'; allowed: a table"),
        ('data = "x"\nout = 3\n[train]', "out of config .* is 3; allowed: a path or a URI in quotes"),
        (
            'data = "x"\nout = "y"\ndecode_once = 1\n[train]',
            "decode_once of config .* is 1; allowed: true or f",
        ),
        (
            'data = "x"\nout = "{tmp}/y"\ndecode_once = true\n[train]\npreset = "demo"\nkind = "files"',
            "decode_once is true and train.kind is given",
        ),
        (
            'data = "x"\nout = "{tmp}/y"\n[train]\npreset = "demo"\nepoch = 3',
            r"unknown option train\.epoch; did you mean train\.epochs",
        ),
        (
            'data = "x"\nout = "{tmp}/y"\n[train]\npreset = "demo"\nepochs = "x"',
            "train.epochs is 'x'; allowed: a whole number",
        ),
        (
            'data = "x"\nout = "{tmp}/y"\n[train]\npreset = "demo"\n[fit]\nsead = 3',
            r"unknown option fit\.sead; did you mean fit\.seed",
        ),
        (
            'data = "x"\nout = "{tmp}/y"\ncurrent = "memory://current"\n[train]\npreset = "demo"',
            "pointer memory://current names '.*/y/bundle', whose protocol is file; allowed: .* is memory",
        ),
        (
            'data = "x"\nout = "{tmp}/y"\n[train]\npreset = "demo"\n[evaluate]\ndata = ""\ntrack = "mlf:x"',
            "track names the service 'mlf'; allowed: mlflow:URI, wandb:PROJECT",
        ),
    ],
)
def test_mistakes_in_the_file_are_named(job, tmp_path, text, message):
    config = tmp_path / "c.toml"
    config.write_text(text.replace("{tmp}", str(tmp_path)))
    done = job("pipeline", "--config", config)
    assert (done.code, done.out) == (2, "")
    assert re.search(message, done.error), done.error


@pytest.mark.slow
def test_overwrite_replaces_only_artifacts_made_with_other_options(job, pipeline, tmp_path):
    out, config = tmp_path / "out", tmp_path / "c.toml"
    shutil.copytree(pipeline.out, out)
    stages = '[train]\npreset = "demo"\nepochs = 12\nworkers = 2\n[fit]\ncomponents = 3'
    config.write_text(f'data = "{pipeline.data}"\nout = "{out}"\n{stages}')
    done = job("pipeline", "--config", config)
    assert (done.code, "already holds a bundle" in done.error) == (2, True)
    for kept in (["train", "encode", "reduce"], ["train", "encode", "reduce", "fit"]):
        done = job("pipeline", "--config", config, "--overwrite")
        assert done.code == 0, done.err
        results = json.loads(done.out)["stages"]
        assert [name for name, result in results.items() if result.get("already")] == kept
        assert results["fit"]["components"] == 3


def test_a_second_pipeline_on_the_same_output_is_refused(job, tmp_path):
    config = tmp_path / "c.toml"
    config.write_text(f'data = "x"\nout = "{tmp_path}/y"\n[train]\npreset = "demo"')
    with locked(f"{tmp_path}/y/pipeline"):
        done = job("pipeline", "--config", config)
    assert (done.code, done.out) == (2, "")
    assert f"{tmp_path}/y/pipeline is being written by" in done.error
