import json

import pytest

from lbae.errors import UserError
from lbae.io.artifact import MANIFEST, RowDigest, begin, publish, read_manifest

FACTS = {"parents": {"data": "d1"}, "config": {"train": {"epochs": 3}, "workers": 2}}


def made(out, **changes):
    facts = {**FACTS, **changes}
    assert begin(str(out), "model", facts["parents"], facts["config"], False) is None
    (out / "weights").write_bytes(b"w")
    return publish(str(out), "model", fingerprint="f1", rows=5, files=["weights"], result={"loss": 1.5}, **facts)


def test_a_published_artifact_reads_back(tmp_path):
    result = made(tmp_path / "m")
    manifest = read_manifest(str(tmp_path / "m"), "model")
    assert (manifest.kind, manifest.fingerprint, manifest.rows, manifest.files) == ("model", "f1", 5, ("weights",))
    assert manifest.result == {"kind": "model", "fingerprint": "f1", "rows": 5, "loss": 1.5}
    assert result == {"out": str(tmp_path / "m"), **manifest.result}
    assert {"lbae", "torch", "numpy", "pyarrow", "ray"} <= manifest.packages.keys()


def test_the_same_make_is_already_there(tmp_path):
    result = made(tmp_path / "m")
    again = begin(str(tmp_path / "m"), "model", FACTS["parents"], FACTS["config"], False)
    assert again == {**result, "already": True}


def test_another_make_is_refused_by_name_and_replaced_when_told(tmp_path):
    made(tmp_path / "m")
    other = {"train": {"epochs": 4}, "workers": 2}
    with pytest.raises(
        UserError, match=r"already holds a model made otherwise \(train.epochs was 3, is now 4\); use --overwrite"
    ):
        begin(str(tmp_path / "m"), "model", FACTS["parents"], other, False)
    with pytest.raises(UserError, match=r"parent.data was d1, is now d2"):
        begin(str(tmp_path / "m"), "model", {"data": "d2"}, FACTS["config"], False)
    assert begin(str(tmp_path / "m"), "model", FACTS["parents"], other, True) is None
    assert not (tmp_path / "m" / "weights").exists()


@pytest.mark.parametrize("name", ["thesis.txt", ".thesis"])
def test_files_of_somebody_else_are_never_touched(tmp_path, name):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / name).write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="already exists and is no artifact of this package"):
            begin(str(tmp_path / "m"), "model", {}, {}, overwrite)
    assert (tmp_path / "m" / name).read_text() == "years of work"


def test_leftovers_of_an_unfinished_run_are_cleared(tmp_path):
    begin(str(tmp_path / "m"), "model", {}, {}, False)
    (tmp_path / "m" / "part").write_bytes(b"half")
    with pytest.raises(
        UserError, match=r"is not a finished artifact \(no manifest.json\); run the job that writes it again"
    ):
        read_manifest(str(tmp_path / "m"))
    assert begin(str(tmp_path / "m"), "model", {}, {}, False) is None
    assert not (tmp_path / "m" / "part").exists()


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
