import json
import os
from dataclasses import replace

import pytest

from lbae.errors import OverwriteNeeded, UserError
from lbae.io.artifacts.manifest import MANIFEST, read_manifest
from lbae.io.artifacts.output import UNFINISHED, WORK, Output
from lbae.io.storage.digests import RowDigest

PARENTS, CONFIG = {"data": "d1"}, {"train": {"epochs": 3}, "workers": 2}


def output(folder, **changes) -> Output:
    return replace(Output(str(folder), "model", parents=PARENTS, config=CONFIG), **changes)


def published(folder, **changes):
    target = output(folder, **changes)
    assert target.begin() is None
    (folder / "weights").write_bytes(b"w")
    return target.publish(fingerprint="f1", rows=5, files=["weights"], result={"loss": 1.5})


def files_below(folder) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_published_artifact_reads_back(tmp_path):
    result = published(tmp_path / "m")
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


def test_the_same_job_returns_the_stored_result(tmp_path):
    result = published(tmp_path / "m")
    for again in (output(tmp_path / "m").existing(), output(tmp_path / "m").begin()):
        assert again == {**result, "already": True}


def test_another_artifact_is_refused_with_the_differences_and_replaced_with_overwrite(tmp_path):
    published(tmp_path / "m")
    other = {"train": {"epochs": 4}, "workers": 2}
    with pytest.raises(
        UserError,
        match=r"a model made from different inputs or options \(train.epochs was 3, is now 4\); use --over",
    ):
        output(tmp_path / "m", config=other).begin()
    with pytest.raises(UserError, match=r"parent.data was d1, is now d2"):
        output(tmp_path / "m", parents={"data": "d2"}).existing()
    with pytest.raises(UserError, match=r"already holds a model \(this job writes a bundle\)"):
        output(tmp_path / "m", kind="bundle").existing()
    assert output(tmp_path / "m", config=other, overwrite=True).begin() is None
    assert not (tmp_path / "m" / "weights").exists()


@pytest.mark.parametrize("name", ["thesis.txt", ".thesis"])
def test_files_that_no_job_wrote_are_never_touched(tmp_path, name):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / name).write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="already exists and was not written by an lbae job"):
            output(tmp_path / "m", overwrite=overwrite).begin()
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
def test_the_inputs_of_a_job_are_not_cleared(tmp_path, read, kept):
    inputs = [None, f"{tmp_path}/{read}"]
    published(tmp_path / "m")
    (tmp_path / "link").symlink_to(tmp_path / "m")
    target = output(tmp_path / "m", parents={"data": "d2"}, inputs=inputs, overwrite=True)
    if not kept:
        assert target.begin() is None
        return
    message = (
        rf"the input {inputs[1]} lies in the output {target.uri}, which this job clears; choose another"
        rf" --out"
    )
    for call in (
        replace(target, parents=PARENTS, overwrite=False).existing,
        target.begin,
        replace(target, extends=read_manifest(target.uri)).begin,
    ):
        with pytest.raises(UserError, match=message):
            call()
    assert {path.name for path in (tmp_path / "m").iterdir()} == {"weights", MANIFEST}


def test_an_update_keeps_artifacts_in_subfolders(tmp_path):
    published(tmp_path / "m")
    (tmp_path / "m" / "stale").touch()
    published(tmp_path / "m" / "with" / "latents")
    base = read_manifest(str(tmp_path / "m"))
    output(tmp_path / "m", parents={"data": "d2"}, extends=base).begin()
    left = {"weights", MANIFEST, UNFINISHED, "with/latents/weights", f"with/latents/{MANIFEST}"}
    assert files_below(tmp_path / "m") == left


def test_leftovers_of_an_unfinished_run_are_cleared(tmp_path):
    output(tmp_path / "m").begin()
    (tmp_path / "m" / "part").write_bytes(b"half")
    with pytest.raises(
        UserError, match=r"is not a finished artifact \(no manifest.json\); run again the job that writes it"
    ):
        read_manifest(str(tmp_path / "m"))
    assert output(tmp_path / "m").begin() is None
    assert not (tmp_path / "m" / "part").exists()


def test_an_artifact_to_be_replaced_stays_until_the_new_one_begins(tmp_path):
    published(tmp_path / "m")
    other = output(tmp_path / "m", parents={"data": "other"})
    with pytest.raises(OverwriteNeeded, match="use --overwrite"):
        other.existing()
    assert replace(other, overwrite=True).existing() is None
    assert {path.name for path in (tmp_path / "m").iterdir()} == {"weights", MANIFEST}
    assert replace(other, overwrite=True).begin() is None
    assert {path.name for path in (tmp_path / "m").iterdir()} == {UNFINISHED}


@pytest.mark.parametrize("removals", range(4))
def test_a_kill_during_clearing_leaves_the_artifact_whole_or_the_folder_free_for_any_job(
    tmp_path, monkeypatch, removals
):
    published(tmp_path / "m")
    (tmp_path / "m" / "data").mkdir()
    (tmp_path / "m" / "data" / "part").write_bytes(b"old")
    other = output(tmp_path / "m", parents={"data": "d2"}, resume_key={"rows": 5})
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
            replace(other, overwrite=True).begin()
    if not removals:
        whole = {"weights", "data", MANIFEST}
        assert output(tmp_path / "m").begin()["already"]
        assert {path.name for path in (tmp_path / "m").iterdir()} == whole
    assert replace(other, overwrite=not removals).begin() is None
    assert {path.name for path in (tmp_path / "m").iterdir()} == {UNFINISHED}, (
        "files of the old artifact do not count as this run's work"
    )


@pytest.mark.parametrize("folder", ["data", "quarantine", WORK])
@pytest.mark.parametrize("begin", ["resume", "update", "replace"])
def test_a_link_in_place_of_a_folder_that_a_job_clears_is_refused(tmp_path, folder, begin):
    run = output(tmp_path / "m", resume_key={"rows": 5})
    run.begin()
    if begin != "resume":
        run.publish(fingerprint="f1", rows=0, files=[], result={})
        changes = {"extends": read_manifest(run.uri)} if begin == "update" else {"overwrite": True}
        run = replace(run, parents={"data": "d2"}, **changes)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "part").write_bytes(b"years of work")
    (tmp_path / "m" / folder).symlink_to(tmp_path / "precious")
    message = rf"m/{folder} is a link to a folder; .*: remove the link, or choose another --out"
    for call in (run.existing, run.begin):
        with pytest.raises(UserError, match=message):
            call()
    if folder != WORK:
        with pytest.raises(UserError, match=message):
            run.publish(fingerprint="f", rows=0, files=[], result={})
    assert (tmp_path / "precious" / "part").read_bytes() == b"years of work"
    (tmp_path / "m" / folder).unlink()
    assert run.begin() is None


def test_clearing_an_output_follows_no_links(tmp_path):
    published(tmp_path / "m")
    published(tmp_path / "m" / "with" / "latents")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "part").write_bytes(b"years of work")
    for link in ("m/old", "m/with/old", "m/with/latents/old"):
        (tmp_path / link).symlink_to(tmp_path / "precious")
    (tmp_path / "m" / "file").symlink_to(tmp_path / "precious" / "part")
    assert output(tmp_path / "m", parents={"data": "d2"}, overwrite=True).begin() is None
    assert (tmp_path / "precious" / "part").read_bytes() == b"years of work"
    assert not (tmp_path / "m" / "file").is_symlink()
    left = {UNFINISHED, "with/latents/weights", f"with/latents/{MANIFEST}"}
    assert files_below(tmp_path / "m") == left


def test_the_folder_of_an_output_may_be_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "m").symlink_to(tmp_path / "disk")
    published(tmp_path / "m")
    assert output(tmp_path / "m", parents={"data": "d2"}, overwrite=True).begin() is None
    assert files_below(tmp_path / "disk") == {UNFINISHED}


def test_artifacts_in_subfolders_are_not_replaced(tmp_path):
    published(tmp_path / "m")
    published(tmp_path / "m" / "with" / "latents")
    (tmp_path / "m" / "with" / "old").touch()
    assert output(tmp_path / "m", parents={"data": "d2"}, overwrite=True).begin() is None
    left = {UNFINISHED, "with/latents/weights", f"with/latents/{MANIFEST}"}
    assert files_below(tmp_path / "m") == left


def test_a_kill_while_the_marker_is_written_does_not_block_the_folder(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / f".{UNFINISHED}.0.tmp").write_bytes(b"{")
    published(tmp_path / "m")
    assert {path.name for path in (tmp_path / "m").iterdir()} == {"weights", MANIFEST}


def test_leftovers_of_a_kill_after_the_manifest_are_cleared_and_an_unfinished_update_resumes(tmp_path):
    def leave(**marker):
        (folder / UNFINISHED).write_text(json.dumps(marker))
        (folder / WORK).mkdir(exist_ok=True)
        (folder / WORK / "shard").touch()

    folder = tmp_path / "m"
    published(folder)
    base = read_manifest(str(folder))
    update = output(folder, parents={"data": "d2"}, resume_key={"rows": 5}, extends=base)
    leave(kind="model", generation=1)
    assert output(folder).begin()["already"]
    assert {path.name for path in folder.iterdir()} == {"weights", MANIFEST}
    leave(kind="model")
    update.begin()
    assert {path.name for path in folder.iterdir()} == {"weights", MANIFEST, UNFINISHED}
    (folder / WORK).mkdir()
    assert output(folder).begin()["already"]
    update.begin()
    assert (folder / WORK).exists(), "the work of a killed update is not a leftover of the artifact"
    with pytest.raises(UserError, match=r"different inputs or options \(work.rows was 5, is now 6\)"):
        replace(update, resume_key={"rows": 6}).begin()
    replace(update, resume_key={"rows": 6}, overwrite=True).begin()
    assert not (folder / WORK).exists()
    (folder / WORK).mkdir()
    replace(update, resume_key=None).begin()
    assert not (folder / WORK).exists(), "a job that cannot resume starts over"
    assert update.unchanged()["already"]


def test_parts_that_the_manifest_does_not_name_are_removed_from_tables(tmp_path):
    out = str(tmp_path / "t")
    target = Output(out, "table", parents={}, config={})
    target.begin()
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
    target.publish(fingerprint="f", rows=1, files=files, result={})
    assert files_below(tmp_path / "t") == {*files, "elsewhere", MANIFEST}


@pytest.mark.parametrize(
    ("changes", "marker"),
    [
        (
            {},
            '{"kind": "model", "parent": {"data": "d1"}, "generation": 1, "work": {"shard_rows": 9},'
            ' "train": {"epochs": 3}, "workers": 2}',
        ),
        ({"update": True}, '{"parent": {"data": "d1"}, "generation": 2, "work": {"shard_rows": 9}}'),
    ],
    ids=["first generation", "update"],
)
def test_a_run_that_an_older_version_began_is_resumed(tmp_path, changes, marker):
    folder = tmp_path / "m"
    if changes:
        published(folder)
        changes = {"extends": read_manifest(str(folder))}
    (folder / WORK).mkdir(parents=True)
    (folder / WORK / "shard").touch()
    (folder / UNFINISHED).write_text(marker)
    assert output(folder, resume_key={"shard_rows": 9}, **changes).begin() is None
    assert (folder / WORK / "shard").exists()
    with pytest.raises(OverwriteNeeded, match=r"inputs or options \(work.shard_rows was 9, is now 8\)"):
        output(folder, resume_key={"shard_rows": 8}, **changes).existing()


def test_an_absent_option_equals_one_that_older_versions_stored_as_none(tmp_path):
    published(tmp_path / "m", config={"attributes": "all", "by": None})
    assert output(tmp_path / "m", config={"attributes": "all"}).existing()["already"]


def test_missing_wrong_newer_and_damaged_artifacts_are_named(tmp_path):
    with pytest.raises(UserError, match="it does not exist"):
        read_manifest(str(tmp_path / "nothing"))
    published(tmp_path / "m")
    with pytest.raises(UserError, match="is of kind model; allowed here: bundle, latent table"):
        read_manifest(str(tmp_path / "m"), "bundle", "latent table")
    tree = json.loads((tmp_path / "m" / MANIFEST).read_text())
    (tmp_path / "m" / MANIFEST).write_text(json.dumps({**tree, "format_version": 99}))
    with pytest.raises(UserError, match="format version 99; this lbae reads up to 1: upgrade lbae"):
        read_manifest(str(tmp_path / "m"))
    (tmp_path / "m" / MANIFEST).write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        read_manifest(str(tmp_path / "m"))


HOSTILE_NAMES = [
    "/etc/passwd",
    "../x",
    "a/../../x",
    "a/..",
    ".",
    "..",
    "",
    "a//b",
    "a/",
    "./a",
    "a\\b",
    "a\0b",
]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_names_of_files_that_lead_out_of_the_folder_are_refused(tmp_path, name):
    published(tmp_path / "m")
    tree = json.loads((tmp_path / "m" / MANIFEST).read_text())
    (tmp_path / "m" / MANIFEST).write_text(json.dumps({**tree, "files": ["weights", name]}))
    with pytest.raises(
        UserError, match=r"manifest\.json is damaged: .*the file name .*; allowed: a path below"
    ):
        read_manifest(str(tmp_path / "m"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", ["model"]),
        ("fingerprint", None),
        ("parents", {"data": ["d1"]}),
        ("parents", []),
        ("config", "x"),
        ("rows", -1),
        ("rows", 5.0),
        ("rows", True),
        ("files", "weights"),
        ("files", [["weights"]]),
        ("result", None),
        ("generation", 0),
        ("generation", 1e300),
        ("format_version", float("nan")),
        ("format_version", float("inf")),
        ("created", 3),
        ("packages", [1]),
    ],
)
def test_fields_of_another_type_are_refused(tmp_path, field, value):
    published(tmp_path / "m")
    tree = json.loads((tmp_path / "m" / MANIFEST).read_text())
    (tmp_path / "m" / MANIFEST).write_text(json.dumps({**tree, field: value}))
    with pytest.raises(UserError, match=r"manifest\.json is damaged: "):
        read_manifest(str(tmp_path / "m"))


@pytest.mark.parametrize(
    "marker", ["[]", "{", '{"generation": "x"}', '{"a": ' + "[" * 5000 + "]" * 5000 + "}"]
)
def test_a_damaged_marker_is_named_or_starts_over(tmp_path, marker):
    run = output(tmp_path / "m", resume_key={"rows": 5})
    run.begin()
    (tmp_path / "m" / UNFINISHED).write_text(marker)
    with pytest.raises(UserError, match=r"\.unfinished is damaged|different inputs or options"):
        run.begin()


def test_row_digest_depends_on_the_rows_but_not_on_their_order_or_parts():
    rows = [b"a", b"b", b"b"]
    whole, parts, other = RowDigest(), RowDigest(), RowDigest()
    whole.add(rows)
    parts.add(rows[2:])
    parts.add(reversed(rows[:2]))
    other.add(rows[:2])
    assert whole.fingerprint("s") == parts.fingerprint("s")
    assert whole.fingerprint("s") != other.fingerprint("s")
    assert whole.fingerprint("s") != whole.fingerprint("t")
