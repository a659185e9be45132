import os
from pathlib import Path

import pytest

from lbae.errors import UserError
from lbae.io.artifacts.output import Output
from lbae.io.picture_file import check_not_read, write_picture
from lbae.io.storage.lock import locked
from lbae.jobs.use.edit import edit
from lbae.jobs.use.interpolate import interpolate
from lbae.jobs.use.reconstruct import reconstruct
from lbae.jobs.use.search import search


def table(out: str) -> None:
    Output(out, "image table", parents={}, config={}, inputs=[]).begin()


def lock(out: str) -> None:
    with locked(out):
        pass


def test_a_picture_replaces_an_existing_one(tmp_path):
    for data in (b"one", b"two"):
        write_picture(str(tmp_path / "new" / "x.png"), data)
    assert (tmp_path / "new" / "x.png").read_bytes() == b"two"


@pytest.mark.parametrize("out", ["x.png", "sub/../x.png", "link/x.png"])
def test_a_picture_does_not_replace_an_input_image(out, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    image = str(tmp_path / "x.png")
    Path(image).write_bytes(b"original")
    with pytest.raises(UserError, match=r"x.png is an image that this job reads; choose another --out"):
        check_not_read(f"{tmp_path}/{out}", str(tmp_path / "y.png"), image)
    check_not_read(f"{tmp_path}/z.png", image)


@pytest.mark.parametrize(
    "write", [lambda out: write_picture(out, b"x"), table, lock], ids=["picture", "table", "lock"]
)
@pytest.mark.parametrize(
    ("out", "why"),
    [
        ("{tmp}/afile/x.png", r"{tmp}/afile is not a folder"),
        ("{tmp}/afile/sub/x.png", r"{tmp}/afile is not a folder"),
        ("/proc/x.png", r"nothing can be created in /proc \(No such file or directory\)"),
        ("/sys/x.png", r"nothing can be created in /sys \((Operation not p|P|R).*\)"),
    ],
)
def test_an_unwritable_output_is_named_with_the_reason(write, out, why, tmp_path):
    (tmp_path / "afile").write_bytes(b"")
    out, why = (text.format(tmp=tmp_path) for text in (out, why))
    with pytest.raises(UserError, match=f"the output {out} cannot be written: {why}; choose another path"):
        write(out)


def test_a_folder_with_a_pictures_name_is_not_replaced(tmp_path):
    (tmp_path / "x.png").mkdir()
    with pytest.raises(UserError, match=r"x.png cannot be written: it is a folder; choose another path"):
        write_picture(str(tmp_path / "x.png"), b"x")
    assert os.listdir(tmp_path) == ["x.png"]


@pytest.mark.parametrize(
    ("job", "options"),
    [
        (edit, {"image": "{image}"}),
        (interpolate, {"source": "{image}", "target": "other.png"}),
        (interpolate, {"source": "other.png", "target": "other.png", "via": ("other.png", "{image}")}),
        (reconstruct, {"data": "{image}"}),
        (search, {"image": "{image}"}),
    ],
)
def test_jobs_do_not_replace_their_input_images(job, options, tmp_path):
    image = str(tmp_path / "x.png")
    Path(image).write_bytes(b"original")
    filled = {
        name: tuple(part.format(image=image) for part in value)
        if isinstance(value, tuple)
        else value.format(image=image)
        for name, value in options.items()
    }
    artifact = "latents" if job is search else "bundle"
    with pytest.raises(UserError, match=r"x.png is an image that this job reads"):
        job(**filled, **{artifact: str(tmp_path / "unread")}, out=image)
    assert Path(image).read_bytes() == b"original"
