import json
import os

import pytest

from lbae.errors import OverwriteNeeded, UserError
from lbae.io.artifacts.output import (
    BEGUN,
    MANIFEST,
    WORK,
    RowDigest,
    begin,
    begin_update,
    finished,
    publish,
    read_manifest,
)

FACTS = {"parents": {"data": "d1"}, "config": {"train": {"epochs": 3}, "workers": 2}}


def made(out, **changes):
    facts = {**FACTS, **changes}
    assert begin(str(out), "model", facts["parents"], facts["config"], False, []) is None
    (out / "weights").write_bytes(b"w")
    return publish(
        str(out), "model", fingerprint="f1", rows=5, files=["weights"], result={"loss": 1.5}, **facts
    )


def test_a_published_artifact_reads_back(tmp_path):
    result = made(tmp_path / "m")
    manifest = read_manifest(str(tmp_path / "m"), "model")
    assert (manifest.kind, manifest.fingerprint, manifest.rows, manifest.files) == (
        "model",
        "f1",
        5,
        ("weights",),
    )
    assert manifest.result == {"kind": "model", "fingerprint": "f1", "rows": 5, "loss": 1.5}
    assert result == {"out": str(tmp_path / "m"), **manifest.result}
    assert {"lbae", "torch", "numpy", "pyarrow", "ray"} <= manifest.packages.keys()


def test_the_same_make_is_already_there(tmp_path):
    result = made(tmp_path / "m")
    again = begin(str(tmp_path / "m"), "model", FACTS["parents"], FACTS["config"], False, [])
    assert again == {**result, "already": True}


def test_another_make_is_refused_by_name_and_replaced_when_told(tmp_path):
    made(tmp_path / "m")
    other = {"train": {"epochs": 4}, "workers": 2}
    with pytest.raises(
        UserError,
        match=r"already holds a model made otherwise \(train.epochs was 3, is now 4\); use --overwrite",
    ):
        begin(str(tmp_path / "m"), "model", FACTS["parents"], other, False, [])
    with pytest.raises(UserError, match=r"parent.data was d1, is now d2"):
        begin(str(tmp_path / "m"), "model", {"data": "d2"}, FACTS["config"], False, [])
    assert begin(str(tmp_path / "m"), "model", FACTS["parents"], other, True, []) is None
    assert not (tmp_path / "m" / "weights").exists()


@pytest.mark.parametrize("name", ["thesis.txt", ".thesis"])
def test_files_of_somebody_else_are_never_touched(tmp_path, name):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / name).write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="already exists and is no artifact of this package"):
            begin(str(tmp_path / "m"), "model", {}, {}, overwrite, [])
    assert (tmp_path / "m" / name).read_text() == "years of work"


@pytest.mark.parametrize(
    ("read", "kept"),
    [
        ("m", True),
        ("m/", True),
        ("m/latents", True),
        ("x/../m", True),
        ("link", True),
        ("m2", False),
        ("", False),
    ],
)
def test_what_a_job_reads_is_not_cleared(tmp_path, read, kept):
    out, inputs = str(tmp_path / "m"), [None, f"{tmp_path}/{read}"]
    made(tmp_path / "m")
    (tmp_path / "link").symlink_to(tmp_path / "m")
    if not kept:
        assert begin(out, "model", {"data": "d2"}, {}, True, inputs) is None
        return
    message = rf"{inputs[1]}, which is read, lies in the output {out}, which is cleared; choose another --out"
    for call in (
        lambda: finished(out, "model", FACTS["parents"], FACTS["config"], False, inputs),
        lambda: begin(out, "model", {"data": "d2"}, {}, True, inputs),
        lambda: begin_update(out, read_manifest(out), {"data": "d2"}, True, inputs),
    ):
        with pytest.raises(UserError, match=message):
            call()
    assert {path.name for path in (tmp_path / "m").iterdir()} == {"weights", MANIFEST}


def test_an_update_leaves_other_artifacts_in_its_folder_alone(tmp_path):
    made(tmp_path / "m")
    (tmp_path / "m" / "stale").touch()
    made(tmp_path / "m" / "with" / "latents")
    begin_update(str(tmp_path / "m"), read_manifest(str(tmp_path / "m")), {"data": "d2"}, False, [])
    left = {str(path.relative_to(tmp_path / "m")) for path in (tmp_path / "m").rglob("*") if path.is_file()}
    assert left == {"weights", MANIFEST, BEGUN, "with/latents/weights", f"with/latents/{MANIFEST}"}


def test_leftovers_of_an_unfinished_run_are_cleared(tmp_path):
    begin(str(tmp_path / "m"), "model", {}, {}, False, [])
    (tmp_path / "m" / "part").write_bytes(b"half")
    with pytest.raises(
        UserError, match=r"is not a finished artifact \(no manifest.json\); run the job that writes it again"
    ):
        read_manifest(str(tmp_path / "m"))
    assert begin(str(tmp_path / "m"), "model", {}, {}, False, []) is None
    assert not (tmp_path / "m" / "part").exists()


def test_what_may_be_replaced_stays_until_the_new_one_begins(tmp_path):
    made(tmp_path / "m")
    place = (str(tmp_path / "m"), "model", {"data": "other"}, FACTS["config"])
    with pytest.raises(OverwriteNeeded, match="use --overwrite"):
        finished(*place, overwrite=False, inputs=[])
    assert finished(*place, overwrite=True, inputs=[]) is None
    assert {path.name for path in (tmp_path / "m").iterdir()} == {"weights", MANIFEST}
    assert begin(*place, overwrite=True, inputs=[]) is None
    assert {path.name for path in (tmp_path / "m").iterdir()} == {BEGUN}


@pytest.mark.parametrize("removals", range(4))
def test_a_kill_while_an_artifact_is_cleared_leaves_it_whole_or_free_for_any_job(
    tmp_path, monkeypatch, removals
):
    made(tmp_path / "m")
    (tmp_path / "m" / "data").mkdir()
    (tmp_path / "m" / "data" / "part").write_bytes(b"old")
    place = (str(tmp_path / "m"), "model", {"data": "d2"}, {})
    left = iter(range(removals))

    def killed(real):
        def remove(*arguments, **options):
            if next(left, None) is None:
                raise KeyboardInterrupt
            return real(*arguments, **options)

        return remove

    with monkeypatch.context() as patch:
        for name in ("remove", "unlink", "rmdir"):
            patch.setattr(os, name, killed(getattr(os, name)))
        with pytest.raises(KeyboardInterrupt):
            begin(*place, True, [], {"rows": 5})
    if not removals:
        whole = {"weights", "data", MANIFEST}
        assert begin(str(tmp_path / "m"), "model", FACTS["parents"], FACTS["config"], False, [])["already"]
        assert {path.name for path in (tmp_path / "m").iterdir()} == whole
    assert begin(*place, not removals, [], {"rows": 5}) is None
    assert {path.name for path in (tmp_path / "m").iterdir()} == {BEGUN}, (
        "what is old does not count as this run's"
    )


def test_other_artifacts_in_the_folder_are_not_replaced(tmp_path):
    made(tmp_path / "m")
    made(tmp_path / "m" / "with" / "latents")
    (tmp_path / "m" / "with" / "old").touch()
    assert begin(str(tmp_path / "m"), "model", {"data": "d2"}, {}, True, []) is None
    left = {str(path.relative_to(tmp_path / "m")) for path in (tmp_path / "m").rglob("*") if path.is_file()}
    assert left == {BEGUN, "with/latents/weights", f"with/latents/{MANIFEST}"}


def test_a_kill_while_the_marker_is_written_does_not_block_the_folder(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / f".{BEGUN}.0.tmp").write_bytes(b"{")
    made(tmp_path / "m")
    assert {path.name for path in (tmp_path / "m").iterdir()} == {"weights", MANIFEST}


def test_what_a_kill_after_the_manifest_left_is_cleared_and_an_update_goes_on(tmp_path):
    def leave(**marker):
        (folder / BEGUN).write_text(json.dumps(marker))
        (folder / WORK).mkdir(exist_ok=True)
        (folder / WORK / "shard").touch()

    out, folder = str(tmp_path / "m"), tmp_path / "m"
    made(folder)
    leave(kind="model", generation=1)
    assert begin(out, "model", FACTS["parents"], FACTS["config"], False, [])["already"]
    assert {path.name for path in folder.iterdir()} == {"weights", MANIFEST}
    leave(kind="model")
    begin_update(out, read_manifest(out), {"data": "d2"}, False, [], work={"rows": 5})
    assert {path.name for path in folder.iterdir()} == {"weights", MANIFEST, BEGUN}
    (folder / WORK).mkdir()
    assert begin(out, "model", FACTS["parents"], FACTS["config"], False, [])["already"]
    begin_update(out, read_manifest(out), {"data": "d2"}, False, [], work={"rows": 5})
    assert (folder / WORK).exists(), "an update that was killed is no leftover of what stands there"
    with pytest.raises(UserError, match=r"unfinished run with other options \(work.rows was 5, is now 6\)"):
        begin_update(out, read_manifest(out), {"data": "d2"}, False, [], work={"rows": 6})


def test_parts_that_no_manifest_names_do_not_stay_among_those_that_are_read(tmp_path):
    out = str(tmp_path / "t")
    begin(out, "table", {}, {}, False, [])
    for name in (
        "data/old",
        "data/stale",
        "data/.new.0.tmp",
        "quarantine/stale",
        "quarantine/new",
        "data/new",
        "elsewhere",
    ):
        (tmp_path / "t" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "t" / name).touch()
    files = ["data/old", "data/new", "quarantine/new"]
    publish(out, "table", fingerprint="f", parents={}, config={}, rows=1, files=files, result={})
    left = {str(path.relative_to(out)) for path in (tmp_path / "t").rglob("*") if path.is_file()}
    assert left == {*files, "elsewhere", MANIFEST}


def test_missing_wrong_newer_and_damaged_artifacts_are_named(tmp_path):
    with pytest.raises(UserError, match="it does not exist"):
        read_manifest(str(tmp_path / "nothing"))
    made(tmp_path / "m")
    with pytest.raises(UserError, match="is a model; a bundle or latent table is needed here"):
        read_manifest(str(tmp_path / "m"), "bundle", "latent table")
    tree = json.loads((tmp_path / "m" / MANIFEST).read_text())
    (tmp_path / "m" / MANIFEST).write_text(json.dumps({**tree, "format_version": 99}))
    with pytest.raises(UserError, match="format version 99; this lbae reads up to 1: upgrade lbae"):
        read_manifest(str(tmp_path / "m"))
    (tmp_path / "m" / MANIFEST).write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        read_manifest(str(tmp_path / "m"))


def test_row_digest_ignores_order_and_parts_but_not_rows():
    rows = [b"a", b"b", b"b"]
    whole, parts, other = RowDigest(), RowDigest(), RowDigest()
    whole.add(rows)
    parts.add(rows[2:])
    parts.add(reversed(rows[:2]))
    other.add(rows[:2])
    assert whole.fingerprint("s") == parts.fingerprint("s")
    assert whole.fingerprint("s") != other.fingerprint("s")
    assert whole.fingerprint("s") != whole.fingerprint("t")
