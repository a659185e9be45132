"""Files from strangers: decoding starts no program, raises ImageError only, and takes bounded memory."""

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from lbae.io.image_formats import FORMATS, UPLOAD_FORMATS
from lbae.io.images import ImageError, check_image
from tests.conftest import ROOT
from tests.io.hostile_images import (
    SIDE,
    bombs,
    gif,
    large_pictures,
    mutated,
    number,
    png,
    png_chunk,
    png_of_texts,
    saved,
    tiff,
    valid_files,
    widest_webp,
    zeros,
)
from tests.io.slow_images import slow_files

MIB = 2**20
# glibc returns freed memory at once, so that the memory of one file does not count as that of another.
PLAIN_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
MUTATED = 400  # per format
SCANS = "5000 x 4990 pixels in 41 scans; allowed: 40 scans"


def decoded(folder: Path, files: dict[str, bytes]) -> tuple[dict[str, tuple[str, int]], dict]:
    """Per file the outcome and the bytes that decoding took, and what else happened in the process."""
    for name, data in files.items():
        (folder / name).write_bytes(data)
    command = [sys.executable, "-m", "tests.io.decode_folder", str(folder)]
    env = os.environ | PLAIN_MALLOC
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    *lines, process = map(json.loads, done.stdout.splitlines())
    assert [line["name"] for line in lines] == sorted(files)
    return {line["name"]: (line["outcome"], line["bytes"]) for line in lines}, process


@pytest.mark.parametrize("kind", FORMATS)
def test_a_mutated_file_is_an_image_or_an_image_error(kind, tmp_path):
    files, rng = valid_files(), random.Random(f"{kind} 0")
    every = [data for some in files.values() for data in some]
    changed = {f"{index:03}": mutated(rng.choice(files[kind]), every, rng) for index in range(MUTATED)}
    valid = {f"valid {index}": data for index, data in enumerate(files[kind])}
    found, process = decoded(tmp_path, changed | valid)
    assert {found[name][0] for name in valid} == {"decoded"}
    errors = {found[name][0] for name in changed} - {"decoded"}
    assert len(errors) > 1, "the files are changed enough to fail in several ways"
    assert max(size for _, size in found.values()) < 1500 * 10**6
    assert process == {"started": [], "remembered": 0}


def test_a_large_picture_takes_17_bytes_per_pixel(tmp_path):
    found, _ = decoded(tmp_path, large_pictures())
    assert {outcome for outcome, _ in found.values()} == {"decoded"}
    pieces = 24 * MIB  # copies of a piece of 1,024 x 1,024 pixels, which do not grow with the picture
    assert {name: size for name, (_, size) in found.items() if size > 17 * SIDE**2 + pieces} == {}


def test_the_texts_of_a_png_take_at_most_300_mb(tmp_path):
    found, _ = decoded(tmp_path, {"a.png": png_of_texts()})
    outcome, size = found["a.png"]
    assert outcome == "decoded"
    assert size < 300 * 10**6


@pytest.mark.slow
def test_the_largest_picture_takes_at_most_1500_mb(tmp_path):
    """Of all formats, WebP's decoder takes the most."""
    data = widest_webp()
    found, _ = decoded(tmp_path, {"a.webp": data})
    outcome, size = found["a.webp"]
    assert (len(data), outcome) == (40, "decoded")
    assert size < 1500 * 10**6


def test_a_file_that_claims_more_than_it_holds_is_refused_before_memory_is_taken(tmp_path):
    messages = dict(enumerate(bombs()))
    found, _ = decoded(tmp_path, {str(index): data for index, data in enumerate(bombs().values())})
    for index, message in messages.items():
        outcome, size = found[str(index)]
        assert message in outcome
        assert size < 64 * MIB, message


def test_a_small_file_that_takes_long_to_decode_is_refused():
    for message, data in slow_files().items():
        with pytest.raises(ImageError, match=re.escape(message)):
            check_image(data)


def test_a_file_at_a_limit_is_decoded():
    """Also a PNG of many small chunks, and a tile larger than its picture."""
    tile = {322: number(256), 323: number(256), 324: number(16), 325: number(256 * 256 * 4)}
    idat = b"".join(png_chunk(b"IDAT", bytes([byte])) for byte in zeros(9 * 37))
    slow = slow_files()[SCANS]
    scan = slow[slow.rindex(b"\xff\xda") : -2]
    jpeg = saved(Image.new("L", (9, 9)), "JPEG")
    for data in (
        slow.replace(scan, b"", 1),
        jpeg[:2] + b"\xff\xe5\0\2" * 1900 + jpeg[2:],
        png(9, 9, png_chunk(b"prVt", b"") * 4095),
        png(9, 9, *[png_chunk(b"IDAT", b"")] * 40_000),
        png(9, 9).replace(png_chunk(b"IDAT", zeros(9 * 37)), idat),
        tiff(bytes(256 * 256 * 4), tile),
        b"P2 3 2 1000\n" + b"#\n" * 1000 + b"1 2 3 400 500 1000\n",
        b"P5 1 1\n" + b"#\n" * 2**14 + b"255\n0",
        b"P4 1000 1000\n" + b" " * 125_000,
        b"P1 2000 2000\n" + b"1" * 4_000_000,
        gif(b"!\xfe" + b"\2aa" * 32_000 + b"\0"),
    ):
        check_image(data)


def test_another_format_starts_no_program_and_its_error_names_the_allowed_ones(tmp_path):
    picture = Image.new("RGB", (9, 9))
    kinds = ("EPS", "ICO", "ICNS", "TGA", "JPEG2000", "AVIF", "PCX", "SGI", "DDS", "QOI")
    others = {kind: saved(picture, kind) for kind in kinds}
    found, process = decoded(tmp_path, others | {"words": b"words"})
    allowed = "not in an allowed format (PNG, JPEG, WEBP, GIF, BMP, TIFF, PPM)"
    assert {outcome for outcome, _ in found.values()} == {allowed}
    assert process["started"] == []


def test_the_service_decodes_formats_of_the_same_list():
    assert set(UPLOAD_FORMATS) < set(FORMATS)
