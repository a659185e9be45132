"""Small tables are reduced and searched without Ray, with the results of tasks."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import ray

from lbae.distributed.cluster.calls import call_each
from lbae.distributed.latent_table.little_work import is_little_work
from lbae.io.artifacts.moments_artifact import load_moments
from lbae.io.images import encode_png
from lbae.jobs.build.reduce import reduce
from lbae.jobs.use.search import search
from tests.conftest import ROOT, write_latents

_WITHOUT_RAY = """
import json, sys, ray

def forbidden(*args, **kwargs):
    raise AssertionError("the job started Ray")

ray.init = forbidden
from lbae.distributed.cluster.calls import call_each
from lbae.jobs.build.reduce import reduce
from lbae.jobs.use.search import search

def powers(calls):
    return list(call_each(lambda base, n: base**n, (2,), calls))

job, given = sys.argv[1], json.loads(sys.argv[2])
print(json.dumps({"reduce": reduce, "search": search, "powers": powers}[job](**given)))
"""


def without_ray(job: str, variables: dict[str, str], **given) -> subprocess.CompletedProcess:
    """The job in a process of its own, in which starting Ray fails; ``variables`` may hold RAY_ADDRESS."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | variables
    command = [sys.executable, "-c", _WITHOUT_RAY, job, json.dumps(given)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)


def result_of(job: str, **given):
    done = without_ray(job, {}, **given)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def latents(tmp_path_factory) -> str:
    rng = np.random.default_rng(0)
    bits = rng.choice(np.array([-1, 1], dtype=np.int8), size=(5_000, 21))
    columns = {
        "kind": ["cat", "dog", None, "eel"] * 1_250,
        "smiling": [True, None, False, True, False] * 1_000,
    }
    return write_latents(tmp_path_factory.mktemp("little") / "latents", bits, columns)


def test_sums_without_ray_are_those_of_tasks(ray_session, latents, tmp_path):
    mine, theirs = str(tmp_path / "mine"), str(tmp_path / "theirs")
    here, there = result_of("reduce", latents=latents, out=mine), reduce(latents=latents, out=theirs, tasks=3)
    assert here["fingerprint"] == there["fingerprint"]
    assert (here["tasks"], here["rows"], here["bytes_read"]) == (1, 5_000, there["bytes_read"])
    assert load_moments(mine)[0].attributes == load_moments(theirs)[0].attributes
    np.testing.assert_array_equal(load_moments(mine)[0].sums, load_moments(theirs)[0].sums)
    assert result_of("reduce", latents=latents, out=mine, update=True)["already"]


def test_hits_without_ray_are_those_of_tasks(ray_session, pipeline, tmp_path):
    image = tmp_path / "image.png"
    image.write_bytes(encode_png(np.arange(28 * 28, dtype=np.uint16).reshape(28, 28, 1).astype(np.uint8)))
    given = {"latents": str(pipeline.latents), "image": str(image), "k": 7}
    assert result_of("search", **given) == json.loads(json.dumps(search(**given)))


def test_calls_give_the_same_here_and_in_tasks(ray_session):
    calls = [(n,) for n in (5, 0, 3)]
    assert list(call_each(lambda base, n: base**n, (2,), calls)) == [32, 1, 8]
    assert ray.is_initialized()
    assert result_of("powers", calls=calls) == [32, 1, 8]


@pytest.mark.parametrize("named", ["--address", "RAY_ADDRESS"])
def test_a_cluster_that_is_named_is_joined(latents, tmp_path, named):
    given = {"latents": latents, "out": str(tmp_path / "m")}
    option, variable = ({"address": "local"}, {}) if named == "--address" else ({}, {"RAY_ADDRESS": "local"})
    assert "the job started Ray" in without_ray("reduce", variable, **given, **option).stderr


@pytest.mark.parametrize(
    ("rows", "operations", "little"),
    [(60_000, 196**2, True), (2**20, 128**2, True), (2**20 + 1, 1, False), (2**20, 128**2 + 1, False)],
)
def test_little_work_is_less_than_starting_ray(rows, operations, little):
    assert is_little_work(rows, operations) is little
