"""The streaming feed and the parts of an epoch; a stand-in for Ray Data gives the images."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lbae import presets
from lbae.distributed.train import image_windows, streaming_feed
from lbae.distributed.train.image_windows import Window
from lbae.distributed.train.streamed_images import PIXELS, epoch_parts, pixel_table
from lbae.distributed.train.streaming_feed import StreamingFeed
from lbae.errors import LbaeError
from lbae.io.sources.source import Shard, Source

SHAPE, CPU = (2, 2, 1), torch.device("cpu")
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
]


class Blocks:
    """The part of Ray Data's iterator that a feed uses.

    ``seen`` is called with the rows given so far before more are given; ``started`` and ``ended`` count runs.
    """

    def __init__(self, tables: list[pa.Table], seen: Callable[[int], None] = lambda rows: None) -> None:
        self.tables, self.seen = tables, seen
        self.started, self.ended = threading.Semaphore(0), threading.Semaphore(0)

    def iter_batches(self, **options: object) -> Iterator[pa.Table]:
        assert options["batch_size"] is None
        self.started.release()
        rows = 0
        try:
            for table in self.tables:
                self.seen(rows)
                rows += len(table)
                yield table
        finally:
            self.ended.release()


def numbered(numbers: range, bad: set[int] = frozenset()) -> pa.Array:
    """Images of four bytes that hold their numbers, null if bad."""
    return pa.array([None if i in bad else i.to_bytes(4, "little") for i in numbers], pa.binary(4))


def blocks(*arrays: pa.Array) -> list[pa.Table]:
    return [pa.table({PIXELS: array}) for array in arrays]


def feed_of(parts: list[Blocks], steps: list[int], **options: object) -> StreamingFeed:
    return StreamingFeed(
        parts, steps, SHAPE, **{"batch": 8, "seed": 3, "epochs": 3, "device": CPU, **options}
    )


def numbers(batches: object) -> list[int]:
    copies = torch.cat([batch.clone() for batch in batches])
    return copies.flatten(1).cpu().numpy().view("<u4").ravel().tolist()


def ended(thread_name: str = "windows") -> None:
    """Wait for all threads of this name."""
    for thread in threading.enumerate():
        if thread.name == thread_name:
            thread.join(60)
            assert not thread.is_alive()


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    ended()


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of at most two batches of eight images."""
    monkeypatch.setattr(streaming_feed, "_WINDOW_BATCHES", 2)
    monkeypatch.setattr(streaming_feed, "_WINDOW_IMAGES", 16)


@settings(deadline=None, max_examples=60)
@given(
    steps=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    more=st.integers(0, 7),
    pieces=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    bad_share=st.sampled_from([0, 0.2, 0.7]),
    seed=st.integers(0, 2**31),
)
def test_every_image_comes_once_per_epoch_from_arrays_of_any_layout(steps, more, pieces, bad_share, seed):
    """Arrays are slices of larger ones, and columns have several chunks, of which some are null or empty."""
    rng = np.random.default_rng(seed)
    parts, good, first = [], [], 0
    for count in steps:
        mine = range(first, first + count * 8 + more)
        bad = {i for i in mine if rng.random() < bad_share} - {mine[0]}  # one good image at the start
        whole = numbered(range(first - 5, mine[-1] + 5) if first else range(mine[-1] + 5), bad)
        lead, cuts, at = (5 if first else 0), [], 0
        while at < len(mine):
            size = pieces[len(cuts) % len(pieces)]
            cuts.append(whole.slice(lead + at, min(size, len(mine) - at)))
            at += size
        columns = [
            pa.chunked_array([*cuts[i : i + 2], whole[:0]], pa.binary(4)) for i in range(0, len(cuts), 2)
        ]
        parts.append(Blocks([pa.table({PIXELS: column}) for column in columns]))
        good.append((set(mine[: count * 8]) - bad, len(bad)))
        first = mine[-1] + 10
    feed = feed_of(parts, steps, epochs=2)
    assert feed.stops == tuple(np.cumsum(steps)[:-1].tolist())
    epochs = []
    for epoch in (0, 1):
        batches = [batch.clone() for batch in feed(epoch)]
        assert [batch.shape for batch in batches] == [(8, *SHAPE)] * sum(steps)
        assert feed.bad == sum(count for _, count in good)
        epochs.append(numbers(batches))
        for count, stop, (images, _) in zip(steps, np.cumsum(steps), good, strict=True):
            part = Counter(epochs[-1][(stop - count) * 8 : stop * 8])
            assert set(part) == images
            if len(images) == count * 8:
                assert set(part.values()) == {1}
    assert sum(steps) < 3 or epochs[0] != epochs[1]
    assert numbers(feed_of(parts, steps, epochs=1)(0)) == epochs[0], "the same arrivals, the same order"


@pytest.mark.parametrize("stop", [0, 1, 2])
def test_an_epoch_resumed_at_a_stop_gives_the_images_that_it_lacks(stop, small_windows):
    steps, first, parts = [3, 5, 2], 0, []
    for count in steps:
        parts.append(Blocks(blocks(numbered(range(first, first + count * 8)))))
        first += count * 8
    start = sum(steps[:stop])
    whole = numbers(feed_of(parts, steps, epochs=2)(1))
    rest = numbers(feed_of(parts, steps, epochs=2)(1, start))
    assert sorted(whole) == list(range(first))
    assert rest == whole[start * 8 :]
    assert feed_of(parts, steps).stops == (3, 8)


def test_the_thread_runs_at_most_two_windows_ahead(small_windows):
    """Windows have 16 images. The thread also holds the array of four that it has read last.

    A window is free once the batch after its last one is asked for.
    """
    taken, ahead = 0, []

    def seen(rows: int) -> None:
        ahead.append(rows - taken)

    part = Blocks(blocks(*(numbered(range(i, i + 4)) for i in range(0, 160, 4))), seen)
    for _ in feed_of([part], [20], epochs=1)(0):
        taken += 8
    assert len(ahead) == 40
    assert max(ahead) <= 2 * 16 + 8 + 4


def test_there_are_two_windows(small_windows, monkeypatch):
    made = []

    class Counted(Window):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)
            made.append(self._images.shape)

    monkeypatch.setattr(image_windows, "Window", Counted)
    feed = feed_of([Blocks(blocks(numbered(range(200))))], [25], epochs=2)
    assert len(numbers(feed(0)) + numbers(feed(1))) == 400
    assert made == [(16, *SHAPE)] * 2


def test_the_next_epoch_starts_before_it_is_asked_for():
    part = Blocks(blocks(numbered(range(64))))
    feed = feed_of([part], [8], epochs=2)
    list(feed(0))
    for _ in range(2):
        assert part.started.acquire(timeout=60)
    assert sorted(numbers(feed(1))) == list(range(64))
    assert not part.started.acquire(blocking=False), "two epochs were asked for"


def test_a_feed_that_is_closed_ends_its_thread_and_can_start_again(small_windows):
    part = Blocks(blocks(*(numbered(range(i, i + 4)) for i in range(0, 160, 4))))
    feed = feed_of([part], [20])
    batches = feed(0)
    next(batches)
    batches.close()
    ended()
    assert part.ended.acquire(timeout=60), "Ray Data's iterator is closed"
    assert sorted(numbers(feed(0))) == list(range(160))
    feed(1).close()
    last = feed(2)  # the feed has begun epoch 1
    assert sorted(numbers(last)) == list(range(160))


def test_a_closed_feed_ends_its_thread_once_the_images_that_it_waits_for_arrive(small_windows):
    arrives = threading.Event()

    def seen(rows: int) -> None:
        if rows == 32:  # two windows have been read
            assert arrives.wait(60)

    part = Blocks(blocks(*(numbered(range(i, i + 8)) for i in range(0, 640, 8))), seen)
    batches = feed_of([part], [80])(0)
    next(batches)
    batches.close()
    assert not part.ended.acquire(blocking=False)
    arrives.set()
    ended()
    assert part.ended.acquire(timeout=60)


@pytest.mark.parametrize("after", [0, 1, 6, 19])
def test_an_error_of_the_stream_reaches_the_training_thread(after, small_windows):
    error = LbaeError("decoding failed")

    def seen(rows: int) -> None:
        if rows == after * 8:
            raise error

    feed = feed_of([Blocks(blocks(*(numbered(range(i, i + 8)) for i in range(0, 160, 8))), seen)], [20])
    with pytest.raises(LbaeError) as raised:
        list(feed(0))
    assert raised.value is error


def test_images_that_the_source_no_longer_has_are_an_error():
    with pytest.raises(LbaeError, match="fewer images than the source had when it was planned"):
        list(feed_of([Blocks(blocks(numbered(range(63))))], [8])(0))


def test_a_window_without_images_is_an_error():
    with pytest.raises(LbaeError, match=r"a run of 64 images .* holds no image that can be decoded"):
        list(feed_of([Blocks(blocks(pa.nulls(64, pa.binary(4))))], [8])(0))


@pytest.mark.parametrize("device", DEVICES)
def test_a_batch_keeps_its_images_until_the_next_is_asked_for(device, small_windows):
    """The other window is filled meanwhile. For a GPU, windows are filled while their batches are in use."""
    feed = feed_of([Blocks(blocks(numbered(range(1600))))], [200], epochs=1, device=torch.device(device))
    batches, seen = feed(0), []
    for batch in batches:
        seen.append((batch if batch.is_cuda else batch.clone(), batch))
        time.sleep(0.001)
        assert torch.equal(*seen[-1])
    assert {batch.device.type for batch, _ in seen} == {device}
    assert sorted(numbers([batch for batch, _ in seen])) == list(range(1600))


def test_decoded_images_become_a_column_without_copies():
    images = np.arange(24, dtype=np.uint8).reshape(3, 2, 2, 2)
    column = pixel_table(images, bad=2)[PIXELS]
    assert column.to_pylist() == [image.tobytes() for image in images] + [None, None]
    assert column.chunk(0).buffers()[1].address == images.ctypes.data
    assert pixel_table(images[:0], bad=1)[PIXELS].to_pylist() == [None]


def a_source(shards: int, rows: int) -> Source:
    found = tuple(
        Shard(root="/d", rows=rows - i % 3, size=1, files=(f"{i}",), columns=pa.schema([]), index=i)
        for i in range(shards)
    )
    return Source(uri="/d", fingerprint="", shards=found)


@pytest.mark.parametrize(
    ("shards", "rows", "parts"), [(1, 9, 1), (127, 2048, 1), (128, 2048, 2), (4883, 2048, 8), (4883, 4, 3)]
)
def test_an_epoch_is_cut_into_parts_of_many_shards_and_steps(shards, rows, parts):
    config, source = presets.get("cifar10"), a_source(shards, rows)
    found = epoch_parts(source, config)
    assert len(found) == parts
    assert sorted(shard.index for part in found for shard in part) == list(range(shards))
    sizes = [sum(shard.rows for shard in part) for part in found]
    assert max(sizes) - min(sizes) <= 2 * rows + len(found[0])
    if parts > 1:
        assert min(map(len, found)) >= 64
        assert min(sizes) >= 64 * config.train.batch_size
        assert {shard.index for shard in found[0]} != set(range(len(found[0]))), "in a random order"
    assert found == epoch_parts(source, config)
