"""TensorBoard events of a training run: losses, speed, the health of the bits, and reconstructions."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from jaxtyping import Int8, UInt8
from tensorboardX import SummaryWriter

from lbae.core.moments.bit_health import sampled_bit_health
from lbae.io.images import grid
from lbae.io.storage.location import resolve

_COLUMNS = 8


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
