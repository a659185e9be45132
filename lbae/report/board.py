"""TensorBoard events of a training run: losses, speed, the health of the bits, and reconstructions to look at."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from jaxtyping import Float, UInt8
from tensorboardX import SummaryWriter

from lbae.core.health import bit_health
from lbae.io.images import grid
from lbae.io.storage import resolve

_COLUMNS = 8


class Board:
    """Writes events to a folder at any URI: the event file grows in a local folder and is copied there with every epoch.

    A run that goes on from a checkpoint adds a file; TensorBoard shows both as one.
    """

    def __init__(self, uri: str) -> None:
        self._uri, self._folder = uri, TemporaryDirectory()
        self._writer = SummaryWriter(self._folder.name)

    def log(self, epoch: int, scalars: dict[str, float]) -> None:
        """Numbers of an epoch by name; those that are None are left out."""
        for name, value in scalars.items():
            if value is not None:
                self._writer.add_scalar(name, value, epoch)

    def log_bits(self, epoch: int, latents: Float[np.ndarray, "K N"]) -> None:
        """The health of latents of +1 and -1."""
        for name, value in bit_health(latents).items():
            self._writer.add_scalar(f"bits/{name}", value, epoch)

    def log_pairs(self, epoch: int, images: UInt8[np.ndarray, "K H W C"], others: UInt8[np.ndarray, "K H W C"]) -> None:
        """Images above their reconstructions."""
        starts = range(0, len(images), _COLUMNS)
        rows = [part[start : start + _COLUMNS] for start in starts for part in (images, others)]
        picture = grid(np.concatenate(rows), _COLUMNS)
        self._writer.add_image("reconstructions", picture, epoch, dataformats="HWC")

    def publish(self) -> None:
        """Copy the events so far."""
        self._writer.flush()
        for file in Path(self._folder.name).iterdir():
            (resolve(self._uri) / file.name).write_bytes(file.read_bytes())
