"""Encoding an image source to a latent table with Ray Data: tasks read and decode shards, a pool of actors encodes them.

One row of the Ray data set is one shard of the source, so every shard becomes one part file with a fixed name, whatever the
number of actors: no row is lost, doubled or moved.
"""

import pickle
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
import torch

from lbae.config import Config
from lbae.core.codec import Codec, best_precision
from lbae.core.packing import pack
from lbae.distributed.session import RUNS_A_NETWORK, cluster_cpus, cluster_gpus, session
from lbae.io import artifact, latent_table
from lbae.io import source as image_source
from lbae.io.decode import check_bad_share, decode_rows
from lbae.io.model import load_model, load_network
from lbae.io.storage import absolute
from lbae.report.progress import ProgressLine


def encode(
    *,
    model: str,
    data: str,
    out: str,
    max_bad_fraction: float = 0.01,
    overwrite: bool = False,
    address: str | None = None,
) -> dict[str, Any]:
    """Encode images into a Parquet table of bit-packed latents.

    Args:
        model: URI of the model artifact.
        data: image table (Parquet), WebDataset tars, folder of images, or torchvision:mnist, cifar10, celeba.
        out: URI of the latent table.
        max_bad_fraction: share of undecodable images above which the job fails, after writing what it has.
        overwrite: replace another artifact at ``out``.
        address: Ray cluster to join; found or started when not given.
    """
    _, config, manifest = load_network(model)
    images = image_source.plan(data)
    parents = {"model": manifest.fingerprint, "data": images.fingerprint}
    settings = {"latent_dim": config.model.latent_dim}
    done = artifact.begin(out, latent_table.KIND, parents, settings, overwrite)
    if done:
        check_bad_share(data, done["bad"], images.rows, max_bad_fraction)
        return done
    started = time.monotonic()
    with session(address), ProgressLine("encode", images.rows, "images") as line:
        stats = []
        for row in _pipeline(model, manifest.fingerprint, config, images, out).iter_rows():
            stats.append(row)
            line.update(sum(s["rows"] + s["bad"] for s in stats))
    rows, bad = sum(s["rows"] for s in stats), sum(s["bad"] for s in stats)
    digest = artifact.RowDigest(sum(int(s["digest"], 16) for s in stats) % 2**256)
    result = artifact.publish(
        out,
        latent_table.KIND,
        fingerprint=digest.fingerprint(manifest.fingerprint),
        parents=parents,
        config=settings,
        rows=rows,
        files=[name for s in stats for name in s["files"]],
        result={
            "bad": bad,
            "latent_dim": config.model.latent_dim,
            "mean_bit": round(sum(s["ones"] for s in stats) / max(1, rows * config.model.latent_dim), 4),
            "device": stats[0]["device"],
            "precision": stats[0]["precision"],
            "seconds": round(time.monotonic() - started, 1),
        },
    )
    check_bad_share(data, bad, images.rows, max_bad_fraction)
    return result


@dataclass(frozen=True, kw_only=True)
class Pool:
    """How many encoders run, what each of them holds, and what a decoding task takes.

    The two never take equal shares: Ray Data would fuse them into one operator and decode inside the encoders.
    """

    actors: int
    cpus: float
    gpus: float
    threads: int
    decode_cpus: float


def pool_for(cpus: int, gpus: int) -> Pool:
    """An encoder a GPU; without GPUs one for every two CPUs, so that reading tasks always find a CPU of their own."""
    if gpus:
        return Pool(actors=gpus, cpus=0.5, gpus=1, threads=1, decode_cpus=1)
    share = 1 if cpus > 1 else 0.5
    return Pool(actors=max(1, cpus // 2), cpus=share, gpus=0, threads=min(cpus, 2), decode_cpus=share / 2)


def _pipeline(model: str, fingerprint: str, config: Config, images: image_source.Source, out: str) -> ray.data.Dataset:
    """Shards -> decoded shards -> one row of statistics a written part."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    pool = pool_for(cluster_cpus(), cluster_gpus())
    count = len(images.shards)

    def decode(row: dict[str, Any]) -> dict[str, Any]:
        shard: image_source.Shard = pickle.loads(row["shard"])
        decoded = decode_rows(image_source.read_shard(shard), config.model)
        shape = np.asarray(decoded.images.shape)
        return {
            "shard": shard.index,
            "pixels": decoded.images.tobytes(),
            "shape": shape,
            "rows": _to_ipc(decoded.rows),
            "quarantine": _to_ipc(decoded.quarantine),
        }

    shards = ray.data.from_items([{"shard": pickle.dumps(s)} for s in images.shards], override_num_blocks=count)
    decoded = shards.map(decode, num_cpus=pool.decode_cpus)
    return decoded.map(
        _Encoder,
        fn_constructor_kwargs={
            "model": absolute(model),
            "fingerprint": fingerprint,
            "out": absolute(out),
            "pool": pool,
        },
        compute=ray.data.ActorPoolStrategy(size=min(pool.actors, count)),
        num_cpus=pool.cpus,
        num_gpus=pool.gpus or None,
        runtime_env=RUNS_A_NETWORK,
    )


class _Encoder:
    """Holds the model; encodes a decoded shard and writes its part files."""

    def __init__(self, model: str, fingerprint: str, out: str, pool: Pool) -> None:
        torch.set_num_threads(pool.threads)
        device = torch.device("cuda" if pool.gpus else "cpu")
        self.codec: Codec = load_model(model, best_precision(device), device)
        self.fingerprint, self.out = fingerprint, out

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        pixels = np.frombuffer(row["pixels"], dtype=np.uint8).reshape(row["shape"]).copy()
        rows, quarantine = _from_ipc(row["rows"]), _from_ipc(row["quarantine"])
        packed = pack(self.codec.encode(pixels))
        keys = rows["key"].combine_chunks()
        columns = rows.drop_columns(["key"])
        part = latent_table.latent_part(keys, packed, columns, self.codec.config.latent_dim, self.fingerprint)
        name = f"part-{row['shard']:05d}.parquet"
        files = []
        for folder, table in (("data", part), ("quarantine", quarantine)):
            if len(table):
                files.append(f"{folder}/{name}")
                latent_table.write_parquet(self.out, files[-1], table)
        return {
            "files": files,
            "rows": len(part),
            "bad": len(quarantine),
            "ones": int(np.unpackbits(packed).sum()),
            "digest": part.schema.metadata[b"lbae.rows_digest"].decode(),
            "device": torch.cuda.get_device_name() if self.codec.device.type == "cuda" else "cpu",
            "precision": self.codec.precision,
        }


def _to_ipc(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _from_ipc(data: bytes) -> pa.Table:
    return pa.ipc.open_stream(data).read_all()
