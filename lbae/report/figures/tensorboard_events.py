"""TensorBoard events of a training run: losses, speed, the health of the bits, and reconstructions."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from jaxtyping import Int8, UInt8
from tensorboardX import SummaryWriter
from tensorboardX.proto.event_pb2 import Event

from lbae.core.moments.bit_health import sampled_bit_health
from lbae.io.images import grid
from lbae.io.storage.location import resolve

_COLUMNS = 8
_PREFIX = "events"  # of the names that the writer gives; others are of files in progress
_LENGTH, _CHECKSUM = 8, 4  # bytes of a record's frame: length, its checksum, event, its checksum


@dataclass(frozen=True, kw_only=True)
class EpochEvents:
    """What the event file of an epoch holds; ``time`` is in seconds since 1970, pictures are PNG."""

    number: int
    time: float
    numbers: dict[str, float]
    pictures: dict[str, bytes]


def log_epoch(
    uri: str,
    epoch: int,
    numbers: dict[str, float],
    latents: Int8[np.ndarray, "K N"] | None,
    pairs: tuple[UInt8[np.ndarray, "K H W C"], UInt8[np.ndarray, "K H W C"]] | None,
) -> None:
    """Add the event file of one epoch to a folder at any URI.

    It holds ``numbers`` by name, the health of the bits of ``latents`` (+1 and -1), and images above their
    reconstructions. There is one file per epoch, because object stores cannot append and because the writer
    is sure to have written everything only once it is closed.
    """
    with TemporaryDirectory() as folder:
        with SummaryWriter(folder, filename_suffix=f".{epoch:05d}") as writer:
            for name, value in numbers.items():
                writer.add_scalar(name, value, epoch)
            if latents is not None:
                for name, value in sampled_bit_health(latents).items():
                    writer.add_scalar(f"bits/{name}", value, epoch)
            if pairs is not None:
                starts = range(0, len(pairs[0]), _COLUMNS)
                rows = [part[start : start + _COLUMNS] for start in starts for part in pairs]
                writer.add_image(
                    "reconstructions", grid(np.concatenate(rows), _COLUMNS), epoch, dataformats="HWC"
                )
        for file in Path(folder).iterdir():
            (resolve(uri) / file.name).write_bytes(file.read_bytes())


def read_epochs(uri: str, after: int) -> Iterator[EpochEvents]:
    """Yield the epochs later than ``after`` whose event files a folder holds, in order.

    An epoch that was trained twice, because a worker died, is read from its newest file.
    """
    folder = resolve(uri)
    folder.refresh()
    if not folder.exists():
        return
    names = sorted(name for name in folder.names() if name.startswith(_PREFIX))
    files = {int(name.rpartition(".")[2]): name for name in names}  # names hold times: the newest is last
    for number in sorted(files):
        if number > after:
            yield _read_epoch(number, (folder / files[number]).read_bytes())


def _read_epoch(number: int, data: bytes) -> EpochEvents:
    time, numbers, pictures = 0.0, {}, {}
    while data:
        size = int.from_bytes(data[:_LENGTH], "little")
        start = _LENGTH + _CHECKSUM
        event = Event.FromString(data[start : start + size])
        data = data[start + size + _CHECKSUM :]
        time = event.wall_time
        for value in event.summary.value:
            if value.HasField("image"):
                pictures[value.tag] = value.image.encoded_image_string
            else:
                numbers[value.tag] = value.simple_value
    return EpochEvents(number=number, time=time, numbers=numbers, pictures=pictures)
