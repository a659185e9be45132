"""Encoding jobs compared with bare loops in this process; searching compared with FAISS itself.

One bare loop is ours without Ray, with either image decoder; the other works as the paper's original code.
"""

import io
import threading
import time
from contextlib import suppress
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch
from PIL import Image
from ray._private.internal_api import memory_summary
from torchvision.io import ImageReadMode, decode_image

from lbae import presets
from lbae.core.latents.packing import pack
from lbae.core.network.autoencoder import LatentBernoulliAutoencoder
from lbae.core.network.codec import Codec, best_precision
from lbae.distributed.latent_table.neighbours import nearest_in
from lbae.io.artifacts.latent_table import KIND, open_latent_table
from lbae.io.artifacts.model_artifact import load_model, save_model
from lbae.io.artifacts.output import Output
from lbae.io.images import decode_image as ours
from lbae.io.storage.parquet_file import write_parquet
from lbae.jobs.build.encode import encode
from tests.benchmarks.conftest import busy_neighbour, peak, smooth_images

CONFIG = presets.get("cifar10")
IMAGES, FEW, BARE = 60_000, 10_000, 8_192
CODES, BITS, PARTS = 10_000_000, 200, 4


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    out = str(tmp_path_factory.mktemp("model") / "model")
    network = LatentBernoulliAutoencoder(CONFIG.model, torch.Generator().manual_seed(0))
    output = Output(out, "model", parents={"data": "none"}, config=CONFIG.to_dict())
    save_model(output, network, CONFIG, {"images": 0})
    return out


def torchvisions(data: bytes) -> np.ndarray:
    buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    return decode_image(buffer, mode=ImageReadMode.RGB).permute(1, 2, 0).numpy()


def bare(codec: Codec, path: Path, out: Path, decode) -> float:
    """Images per second of reading, decoding, encoding and writing in one process with all cores."""
    started, packed = time.perf_counter(), []
    for batch in pq.ParquetFile(path).iter_batches(1024):
        cells = batch["image"].field("bytes").to_pylist()
        packed.append(pack(codec.encode(np.stack([decode(cell) for cell in cells]))))
        if sum(map(len, packed)) >= BARE:
            break
    rows = np.concatenate(packed)
    table = pa.table({"latent": pa.array([row.tobytes() for row in rows], pa.binary(rows.shape[1]))})
    pq.write_table(table, out, compression="zstd")
    return len(rows) / (time.perf_counter() - started)


@torch.inference_mode()
def plain(path: Path) -> float:
    """Images per second of a loop as in the original code: float32, contiguous, Pillow, batches of 512."""
    network = LatentBernoulliAutoencoder(CONFIG.model).eval()
    cells = next(pq.ParquetFile(path).iter_batches(2048))["image"].field("bytes").to_pylist()
    started = time.perf_counter()
    for first in range(0, len(cells), 512):
        images = [
            np.asarray(Image.open(io.BytesIO(cell)).convert("RGB")) for cell in cells[first : first + 512]
        ]
        network.encode(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float().div(255))
    return len(cells) / (time.perf_counter() - started)


def watch_encoders(stop: threading.Event, found: list[int]) -> None:
    """Append the peak memory of every encoder to ``found`` until the event is set."""
    while not stop.wait(0.5):
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError, StopIteration):
                if b"Map(_Actor)" in (process / "cmdline").read_bytes():
                    found.append(peak(process))


@pytest.mark.filterwarnings("ignore:The image decoding")
def test_encoding_jobs(model, tmp_path):
    tables = {count: smooth_images(tmp_path / f"{count}.parquet", count) for count in (FEW, IMAGES)}
    for actor in range(2):  # two files are two shards, so the empty job starts two actors as well
        smooth_images(tmp_path / "empty" / f"{actor}.parquet", 1)
    tables[2] = tmp_path / "empty"

    def job(count: int, name: str = "latents") -> tuple[dict, float, str]:
        ray.init(
            address="local", num_cpus=2, object_store_memory=2**31, log_to_driver=False
        )  # as a job starts it
        stop, peaks, driver = threading.Event(), [0], Path("/proc/self")
        (driver / "clear_refs").write_text("5")  # resets the driver's peak memory
        thread = threading.Thread(target=watch_encoders, args=(stop, peaks))
        thread.start()
        started = time.perf_counter()
        result = encode(model=model, data=str(tables[count]), out=str(tmp_path / f"{name}-{count}"))
        spent = time.perf_counter() - started
        stop.set()
        thread.join()
        assert "Spilled" not in memory_summary(stats_only=True)
        ray.shutdown()
        return result, spent, f"{max(peaks)} MB in an encoder and {peak(driver)} MB in the driver"

    codec = load_model(model, best_precision(torch.device("cpu")), "cpu")

    def bares() -> dict[str, float]:
        loops = {"torchvision": torchvisions, "Pillow": lambda data: ours(data, CONFIG.model)}
        rates = {
            name: bare(codec, tables[IMAGES], tmp_path / "bare.parquet", decode)
            for name, decode in loops.items()
        }
        return rates | {"as the original": plain(tables[IMAGES])}

    first = bares()
    empty, few, whole = job(2), job(FEW), job(IMAGES)
    with busy_neighbour():
        beside, *_ = job(IMAGES, "beside")
    last = bares()
    steady, net = whole[0]["images_per_second"], IMAGES / (whole[1] - empty[1])
    print(f"\nbare loops, images per second: {first} before and {last} after")
    for name in first:
        base = (first[name] * last[name]) ** 0.5
        print(
            f"ratio to {name}: {steady / base:.2f} for the steady rate ({steady:.0f}/s), {net / base:.2f} for"
            f" the whole job less an empty one ({net:.0f}/s)"
        )
    print(f"beside a busy neighbour {beside['images_per_second']:.0f}/s")
    print(f"empty job {empty[1]:.1f} s; peak memory {few[2]} for {FEW} images, {whole[2]} for {IMAGES}")


@pytest.mark.filterwarnings("ignore:The image decoding")
def test_bits_that_flip_between_batch_sizes(model, tmp_path):
    table = smooth_images(tmp_path / "some.parquet", 4096)
    cells = pq.read_table(table)["image"].combine_chunks().field("bytes").to_pylist()
    images = np.stack([torchvisions(cell) for cell in cells])
    for precision in ("bfloat16", "float32"):
        codec = load_model(model, precision, "cpu")
        latents = codec.encode(images)
        codec._batch = 128
        flipped = int((codec.encode(images) != latents).sum())
        print(f"\n{precision}: {flipped} of {latents.size} bits differ between batches of 32 and of 128")


@pytest.fixture(scope="module")
def codes(tmp_path_factory) -> str:
    uri = str(tmp_path_factory.mktemp("codes") / "latents")
    rng, files = np.random.default_rng(0), []
    for part in range(PARTS):
        rows = rng.integers(0, 256, (CODES // PARTS, BITS // 8), dtype=np.uint8)
        latent = pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(BITS // 8), len(rows), [None, pa.py_buffer(rows)]
        )
        keys = pa.array(np.arange(part * len(rows), (part + 1) * len(rows)).astype(str))
        metadata = {"lbae.model_fingerprint": "m", "lbae.rows_digest": "1"}
        table = pa.table({"key": keys, "latent": latent}).replace_schema_metadata(metadata)
        files.append(f"data/part-{part}.parquet")
        write_parquet(uri, files[-1], table, [2**16] * (len(rows) // 2**16) + [len(rows) % 2**16])
    output = Output(uri, KIND, parents={"model": "m"}, config={"latent_dim": BITS})
    output.publish(fingerprint="f", rows=CODES, files=files, result={})
    return uri


def test_searching(codes, compare):
    ray.init(address="local", num_cpus=2, object_store_memory=2**30, log_to_driver=False)
    table = open_latent_table(codes)
    query = np.random.default_rng(1).integers(0, 256, BITS // 8, dtype=np.uint8)

    def direct() -> None:
        index = faiss.IndexBinaryFlat(BITS)
        for part in table.parts:
            column = pq.read_table(Path(codes, part), columns=["latent"])["latent"].combine_chunks()
            index.add(np.frombuffer(column.buffers()[1], dtype=np.uint8).reshape(-1, BITS // 8))
        index.search(query[None], 20)

    compare(
        lambda: nearest_in(table, query[None], 20),
        direct,
        "as fast as reading the table and searching with FAISS, in one process",
    )
    ray.shutdown()
