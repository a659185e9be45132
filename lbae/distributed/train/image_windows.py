"""Windows of shuffled images, which a background thread fills while batches leave another one."""

import itertools
import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from lbae.distributed.train.pixel_stream import PixelStream, row_type
from lbae.errors import LbaeError

_WINDOWS = 2  # one that is filled and one that batches leave
_Item = TypeVar("_Item")


class Window:
    """Memory for shuffled uint8 images (K, H, W, C) that is filled again and again.

    For a GPU the memory is pinned, and batches leave it as asynchronous copies; :meth:`fill` waits for the
    last of them. For a CPU batches are parts of the window.
    """

    def __init__(self, images: int, shape: tuple[int, ...], device: torch.device) -> None:
        on_gpu = device.type == "cuda"
        # Pinning needs a CUDA context: this worker's own, not one more on the first GPU of the node.
        with torch.cuda.device(device) if on_gpu else nullcontext():
            self._images = torch.empty((images, *shape), dtype=torch.uint8, pin_memory=on_gpu)
        self._rows = self._images.numpy().reshape(-1).view(row_type(self._images[0].numel()))
        self._device = device
        self._copied: torch.cuda.Event | None = None

    def fill(self, pixels: PixelStream, images: int, rng: np.random.Generator) -> None:
        """Put the next ``images`` rows of the stream in random places.

        The place of an image that could not be decoded is taken by another image of the window.

        Raises:
            LbaeError: No image can be decoded, or the stream ends.
        """
        if self._copied is not None:
            self._copied.synchronize()
        places, filled = rng.permutation(images), 0
        decoded = np.zeros(images, dtype=bool)
        while filled < images:
            rows, good = pixels.take(images - filled)
            here = places[filled : filled + len(good)][good]
            self._rows[here], decoded[here] = rows, True
            filled += len(good)
        whole, missing = np.flatnonzero(decoded), np.flatnonzero(~decoded)
        if not len(whole):
            raise LbaeError(
                f"a run of {images} images of the stream holds no image that can be decoded; see"
                " --max-bad-fraction"
            )
        copied = rng.choice(whole, len(missing), replace=len(missing) > len(whole))
        self._rows[missing] = self._rows[copied]

    def batch(self, start: int, images: int) -> Tensor:
        """Some images on the device; on a CPU they change when the window is filled again."""
        batch = self._images[start : start + images].to(self._device, non_blocking=True)
        if batch.is_cuda:
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record(torch.cuda.current_stream(self._device))
        return batch


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Arrays of images to be cut into windows of ``sizes`` images; the rest is read and not used."""

    arrays: Iterator[pa.FixedSizeBinaryArray]
    sizes: Sequence[int]
    rng: np.random.Generator


class WindowFiller:
    """A background thread that cuts streams into windows, up to two windows ahead of who takes batches.

    Whoever takes batches calls :meth:`batches` for each window of a stream, and then :meth:`nulls`. An error
    of the thread is raised there.
    """

    def __init__(
        self, streams: Iterable[Stream], images: int, shape: tuple[int, ...], device: torch.device
    ) -> None:
        self._empty: queue.SimpleQueue[Window | None] = queue.SimpleQueue()
        self._full: queue.SimpleQueue[Window | int | BaseException] = queue.SimpleQueue()
        self._stopped = threading.Event()
        for _ in range(_WINDOWS):
            self._empty.put(Window(images, shape, device))
        self.thread = threading.Thread(target=self._run, args=(streams,), name="windows", daemon=True)
        self.thread.start()

    def _run(self, streams: Iterable[Stream]) -> None:
        try:
            for stream in streams:
                pixels = PixelStream(itertools.takewhile(self._goes_on, stream.arrays))
                for images in stream.sizes:
                    window = self._empty.get()
                    if window is None:
                        return
                    window.fill(pixels, images, stream.rng)
                    self._full.put(window)
                pixels.drain()
                self._full.put(pixels.nulls)
        except BaseException as error:
            if self._goes_on():  # nobody takes the error otherwise, and it would keep the arrays alive
                self._full.put(error)

    def _goes_on(self, _: object = None) -> bool:
        return not self._stopped.is_set()

    def batches(self, images: int, batch: int) -> Iterator[Tensor]:
        """The batches of the next window, which holds ``images`` images.

        The window is filled again once the batch after its last one is asked for.
        """
        window = self._next(Window)
        for start in range(0, images, batch):
            yield window.batch(start, batch)
        self._empty.put(window)

    def nulls(self) -> int:
        """The number of images of the stream that could not be decoded."""
        return self._next(int)

    def _next(self, kind: type[_Item]) -> _Item:
        item = self._full.get()
        if isinstance(item, BaseException):
            raise item
        assert isinstance(item, kind)
        return item

    def stop(self) -> None:
        """Let the thread end, at once or, while it waits for an array, as soon as that one has arrived."""
        self._stopped.set()
        self._empty.put(None)
