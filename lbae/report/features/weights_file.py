"""Check a file of weights before a library reads it."""

from pathlib import Path

import torch

from lbae.errors import LbaeError


def only_tensors(path: Path) -> None:
    """Raise LbaeError when a weights file holds more than tensors.

    The libraries that load it would unpickle, and so run, whatever it holds.
    """
    try:
        torch.load(path, weights_only=True)
    except Exception as error:
        raise LbaeError(f"{path} is not a weights file: {' '.join(str(error).split())[:200]}") from error
