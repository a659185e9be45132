"""``torchvision:NAME``: a data set that torchvision downloads, as an image table in the cache."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torchvision import datasets

from lbae.errors import LbaeError, unknown
from lbae.io.artifacts import image_table
from lbae.io.artifacts.manifest import MANIFEST
from lbae.io.artifacts.output import Output
from lbae.io.artifacts.written_part import Part
from lbae.io.images import encode_png
from lbae.io.storage.cache_folder import cache_folder, local_cache
from lbae.io.storage.location import absolute, resolve
from lbae.io.storage.lock import locked

_PART_ROWS = 10_000
_NAMES = ("mnist", "cifar10", "celeba")
_SPLITS = ("train", "test")
_Row = tuple[str, bytes, dict[str, Any]]  # name, content, further columns


def as_image_table(uri: str) -> str:
    """The URI of the image table of ``torchvision:NAME`` or ``torchvision:NAME:test``.

    The table is downloaded and written unless the cache has it. The cache is LBAE_CACHE, a URI that all nodes
    can reach, else a folder of the user's.

    Raises:
        UserError: The name or split is unknown, or another job is writing the table.
        LbaeError: The download fails.
    """
    name, _, split = uri.removeprefix("torchvision:").partition(":")
    split = split or "train"
    for what, value, known in (("torchvision data set", name, _NAMES), ("split", split, _SPLITS)):
        if value not in known:
            raise unknown(what, value, known)
    out = str(cache_folder() / f"{name}-{split}")
    if (resolve(out) / MANIFEST).exists():
        return absolute(out)
    with locked(out):
        output = Output(out, image_table.KIND, parents={"source": uri}, config={})
        if not output.begin():
            _write(output, uri, _ROWS[name], split)
    return absolute(out)


def _write(output: Output, uri: str, rows_of: Callable[[str, bool], Iterator[_Row]], split: str) -> None:
    try:
        rows = rows_of(str(local_cache() / "downloads"), split == "train")
    except (RuntimeError, OSError) as error:
        raise LbaeError(
            f"{uri} could not be downloaded by torchvision: {' '.join(str(error).split())}"
        ) from error
    parts: list[Part] = []
    while some := list(itertools.islice(rows, _PART_ROWS)):
        columns = {column: [facts[column] for _, _, facts in some] for column in some[0][2]}
        parts.append(
            image_table.write_files(output.uri, len(parts), [(path, data) for path, data, _ in some], columns)
        )
    image_table.publish_images(output, parts, result={})


def _arrays(dataset: Any) -> Iterator[_Row]:
    for index, (image, label) in enumerate(zip(dataset.data, dataset.targets, strict=True)):
        pixels = image.numpy()[..., None] if hasattr(image, "numpy") else image
        yield f"{index:08d}.png", encode_png(pixels), {"label": int(label)}


def _mnist(root: str, train: bool) -> Iterator[_Row]:
    return _arrays(datasets.MNIST(root, train=train, download=True))


def _cifar10(root: str, train: bool) -> Iterator[_Row]:
    return _arrays(datasets.CIFAR10(root, train=train, download=True))


def _celeba(root: str, train: bool) -> Iterator[_Row]:
    dataset = datasets.CelebA(root, split="train" if train else "test", target_type="attr", download=True)
    return _faces(dataset)


def _faces(dataset: datasets.CelebA) -> Iterator[_Row]:
    folder = Path(dataset.root, dataset.base_folder, "img_align_celeba")
    names = [name for name in dataset.attr_names if name]
    for file, values in zip(dataset.filename, dataset.attr, strict=True):
        yield (
            file,
            (folder / file).read_bytes(),
            dict(zip(names, (bool(value) for value in values), strict=True)),
        )


_ROWS = {"mnist": _mnist, "cifar10": _cifar10, "celeba": _celeba}
