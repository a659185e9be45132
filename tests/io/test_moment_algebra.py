"""Adding, subtracting and comparing moment sums with jobs/moments.py, on artifacts made without Ray."""

import json
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from lbae.core.latents.packing import pack
from lbae.core.moments.moment_accumulator import sum_packed
from lbae.errors import UserError
from lbae.io.artifacts.moments_artifact import Lineage, load_lineage, load_moments, save_moments
from lbae.io.artifacts.output import Output
from lbae.jobs.inspect.moments import add, drift, subtract
from tests.conftest import ROOT, picture_size

LATENTS = np.random.default_rng(0).choice(np.array([-1, 1], dtype=np.int8), size=(400, 30))


@pytest.fixture
def sums(tmp_path):
    def make(name: str, rows: slice, model: str = "m1", parts: tuple[str, ...] = ()) -> str:
        moments = sum_packed(pack(LATENTS[rows]), 30)
        lineage = Lineage(tables={name: moments.count}, parts=dict.fromkeys(parts or (f"part of {name}",), 1))
        uri = str(tmp_path / name)
        output = Output(uri, "moment sums", parents={"model": model, "latents": name}, config={})
        save_moments(output, moments, lineage, {})
        return uri

    return make


def test_sums_add_and_subtract_exactly(sums, tmp_path):
    left, right, whole = sums("a", slice(0, 150)), sums("b", slice(150, 400)), sums("ab", slice(0, 400))
    both, back = str(tmp_path / "both"), str(tmp_path / "back")
    result = add(left, right, out=both)
    assert (result["rows"], result["tables"]) == (400, {"a": 150, "b": 250})
    assert load_moments(both)[1].fingerprint == load_moments(whole)[1].fingerprint
    assert load_moments(both)[1].parents["left"] == load_moments(left)[1].fingerprint
    assert add(left, right, out=both) == {**result, "already": True}
    with pytest.raises(UserError, match=r"the input .*both lies in the output"):
        add(both, right, out=both, force=True, overwrite=True)
    assert subtract(both, right, out=back)["tables"] == {"a": 150}
    np.testing.assert_array_equal(load_moments(back)[0].sums, load_moments(left)[0].sums)
    assert load_lineage(back, load_moments(back)[1]) == load_lineage(left, load_moments(left)[1])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda s: s + 10**6 * (1 - np.eye(31, dtype=int)), "no rows can have these sums"),
        (lambda s: np.full_like(s, np.iinfo(np.int64).min), "no rows can have these sums"),
        # Added to themselves, these would exceed 64 bits unnoticed.
        (lambda s: np.full_like(s, np.iinfo(np.int64).max), "no rows can have these sums"),
        (lambda s: s[:-1, :-1].copy(), r"sums is int64 \(30, 30\); allowed: int64 \(31, 31\)"),
        (lambda s: s.astype(np.float64), "sums is float64"),
    ],
)
def test_sums_that_no_rows_can_have_are_refused(sums, change, match):
    uri = sums("a", slice(0, 150))
    file = Path(uri, "sums.safetensors")
    file.write_bytes(safetensors.numpy.save({"sums": change(load_moments(uri)[0].sums)}))
    with pytest.raises(UserError, match=rf"sums\.safetensors is damaged: {match}"):
        load_moments(uri)


@pytest.mark.parametrize(
    ("section", "value"),
    [
        ("tables", {"a": "150"}),
        ("tables", "a"),
        ("parts", {"a": 0.5}),
        ("attributes", [{"name": "a"}]),
        ("attributes", [{"name": ["a"], "column": "a", "yes": 1}]),
        ("attributes", [{"name": "a", "column": "a", "yes": {}}]),
        ("attributes", 3),
    ],
)
def test_a_damaged_lineage_is_named(sums, section, value):
    uri = sums("a", slice(0, 150))
    file = Path(uri, "lineage.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), section: value}))
    with pytest.raises(UserError, match=r"lineage\.json is damaged"):
        load_lineage(uri, load_moments(uri)[1])


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"latent_dim": 10**30}, r"sums is int64 \(31, 31\); allowed: int64 \(1000"),
        ({"latent_dim": -2, "attributes": ["a"] * 16}, "no rows can have these sums"),
        ({"attributes": "a"}, "result.attributes is 'a'; allowed: list"),
    ],
)
def test_names_and_bits_must_fit_the_sums(sums, fields, match):
    uri = sums("a", slice(0, 150))
    file = Path(uri, "manifest.json")
    tree = json.loads(file.read_text())
    file.write_text(json.dumps({**tree, "result": {**tree["result"], **fields}}))
    with pytest.raises(UserError, match=match):
        load_moments(uri)


def test_rows_of_another_table_can_be_subtracted_only_once(sums, tmp_path):
    whole, few = sums("all", slice(0, 400)), sums("few", slice(10, 20))
    once = str(tmp_path / "once")
    assert subtract(whole, few, out=once)["tables"] == {"all": 400, "few": -10}
    expected = sum_packed(pack(np.delete(LATENTS, slice(10, 20), axis=0)), 30)
    np.testing.assert_array_equal(load_moments(once)[0].sums, expected.sums)
    with pytest.raises(UserError, match=r"1 part files of .*few are already removed in .*once; give --force"):
        subtract(once, few, out=str(tmp_path / "twice"))
    assert not (tmp_path / "twice").exists()


def test_the_same_rows_twice_are_refused_unless_forced(sums, tmp_path):
    old, grown = sums("t", slice(0, 100), parts=("p1",)), sums("grown t", slice(0, 200), parts=("p1", "p2"))
    with pytest.raises(UserError, match=r"1 part files of .*grown t are already summed in .*t; give --force"):
        add(old, grown, out=str(tmp_path / "sum"))
    assert add(old, grown, out=str(tmp_path / "sum"), force=True)["rows"] == 300


def test_sums_that_do_not_belong_together_are_refused(sums, tmp_path):
    left = sums("a", slice(0, 150))
    with pytest.raises(UserError, match=r"is for model m1, .* for model m2; only sums for one model"):
        add(left, sums("b", slice(150, 400), "m2"), out=str(tmp_path / "sum"))
    with pytest.raises(UserError, match=r"cannot be subtracted from .*: the rows to remove are not among"):
        subtract(left, sums("c", slice(0, 400)), out=str(tmp_path / "rest"))
    labelled = str(tmp_path / "labelled")
    flags = np.ones((400, 1), dtype=bool)
    moments = sum_packed(pack(LATENTS), 30, ("x",), flags, ~flags)
    lineage = Lineage(tables={"l": 400}, parts={"l": 1})
    output = Output(labelled, "moment sums", parents={"model": "m1"}, config={})
    save_moments(output, moments, lineage, {})
    with pytest.raises(
        UserError, match=r"has the attributes none, .*labelled has x; reduce both with the same"
    ):
        add(left, labelled, out=str(tmp_path / "sum"))


def test_drift_is_measured_and_drawn(sums, tmp_path):
    same = drift(sums("a", slice(0, 200)), sums("b", slice(200, 400)), out=str(tmp_path / "same.png"))
    assert same["bits_beyond_4_sigma"] == 0
    assert 0.8 < same["frobenius"] / same["frobenius_by_chance"] < 1.2
    LATENTS_WITH_DRIFT = LATENTS.copy()
    LATENTS_WITH_DRIFT[:, 7] = 1
    other = str(tmp_path / "c")
    moments = sum_packed(pack(LATENTS_WITH_DRIFT), 30)
    output = Output(other, "moment sums", parents={"model": "m1"}, config={})
    save_moments(output, moments, Lineage(tables={}, parts={}), {})
    found = drift(sums("d", slice(0, 200)), other, out=str(tmp_path / "drift.png"))
    assert (found["bits_beyond_4_sigma"], found["largest"][0]["bit"]) == (1, 7)
    assert picture_size(tmp_path / "drift.png")[0] > 500


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "a command is missing; allowed: add, subtract, drift"),
        ("ad a b --out c", "unknown command 'ad'; did you mean 'add'"),
        (
            "add a b --out c --frce",
            r"unknown option --frce; did you mean --force\? \(options: --out, --force",
        ),
        ("add a b --out {tmp}/c", "there is no artifact at a: it does not exist"),
    ],
)
def test_mistakes_on_the_command_line(monkeypatch, capsys, tmp_path, arguments, message):
    monkeypatch.setattr(sys, "argv", ["moments.py", *arguments.format(tmp=tmp_path).split()])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / "jobs" / "moments.py"), run_name="__main__")
    out, err = capsys.readouterr()
    assert (stop.value.code, out) == (2, "")
    assert re.fullmatch(f"error: {message}.*\n", err), err


def test_the_job_prints_one_line_of_json(monkeypatch, capsys, sums, tmp_path):
    arguments = ["add", sums("a", slice(0, 9)), sums("b", slice(9, 20)), "--out", str(tmp_path / "sum")]
    monkeypatch.setattr(sys, "argv", ["moments.py", *arguments])
    runpy.run_path(str(ROOT / "jobs" / "moments.py"), run_name="__main__")
    assert json.loads(capsys.readouterr().out)["rows"] == 20
