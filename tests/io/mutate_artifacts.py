"""Read artifacts whose files were mutated: ``python -m tests.io.mutate_artifacts FOLDER ROUNDS [KIND ...]``.

Every file of a small artifact of each kind is mutated ROUNDS times, most often with a manifest whose digest
fits, as an attacker would write it. The artifact is then read, and used if that succeeds. Anything but the
package's own error, or finite content, is a failure. The address space is limited to what valid artifacts
took, and a little more. The last line is a JSON object of what happened.
"""

import json
import random
import resource
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

import lbae
from lbae.config import Config, ModelConfig
from lbae.core.latents.normals import pooled_factor
from lbae.core.latents.packing import pack
from lbae.core.moments.attribute_statistics import attribute_statistics
from lbae.core.moments.moment_accumulator import sum_packed
from lbae.core.network.autoencoder import LatentBernoulliAutoencoder
from lbae.core.prior.samplers import fit_sampler
from lbae.errors import LbaeError
from lbae.io.artifacts import latent_table
from lbae.io.artifacts.attribute_columns import Attribute
from lbae.io.artifacts.bundle_artifact import load_bundle, save_bundle
from lbae.io.artifacts.describe import describe
from lbae.io.artifacts.manifest import MANIFEST
from lbae.io.artifacts.model_artifact import save_model
from lbae.io.artifacts.moments_artifact import Lineage, load_lineage, load_moments, save_moments
from lbae.io.artifacts.output import Output
from lbae.io.storage.digests import digest
from lbae.io.storage.parquet_file import write_parquet
from tests.core.test_exchange import value_models
from tests.io.mutations import mutated

BITS, ROWS = 16, 60
# Beyond what valid artifacts take: room for the answers of libraries, far below any hostile size.
_ROOM_BYTES = 2**28
_BUNDLE_FILES = ("weights", "config", "prior", "pooled", "attributes", "values", "examples")


def write_artifacts(root: Path) -> None:
    """Write a model, latents, moment sums and a bundle with all optional files, below ``root``."""
    rng = np.random.default_rng(0)
    present = rng.random((ROWS, 2)) < 0.5
    latents = np.where(rng.normal(size=(ROWS, BITS)) + present[:, :1] >= 0.3, np.int8(1), np.int8(-1))
    config = Config(model=ModelConfig(latent_dim=BITS, image_size=8, channels=(4, 4), latent_grid=2))
    network = LatentBernoulliAutoencoder(config.model, torch.Generator().manual_seed(0))
    output = Output(f"{root}/model", "model", parents={}, config=config.to_dict())
    model = save_model(output, network, config, {"images": ROWS})["fingerprint"]
    columns = pa.table({"a": present[:, 0].tolist(), "b": present[:, 1].tolist()})
    keys = pa.array([f"image-{i}" for i in range(ROWS)])
    part = latent_table.latent_rows(keys, pack(latents), columns, BITS, model, 2)
    write_parquet(f"{root}/latents", "data/part-00000.parquet", part, [40, 20])
    bad = pa.table({"key": ["x"], "path": ["x"], "error": ["truncated: 3 bytes"]})
    write_parquet(f"{root}/latents", "quarantine/part-00000.parquet", bad)
    files = ["data/part-00000.parquet", "quarantine/part-00000.parquet"]
    parents = {"model": model, "data": "none"}
    Output(f"{root}/latents", latent_table.KIND, parents=parents, config={"latent_dim": BITS}).publish(
        fingerprint="f", rows=ROWS, files=files, result={"precision": "float32", "bad": 1}
    )
    sums = sum_packed(pack(latents), BITS, ("a", "b"), present, ~present)
    attributes = tuple(Attribute(name=name, column=name, yes=True, no=False) for name in "ab")
    lineage = Lineage(tables={"f": ROWS}, parts={"0a": 1}, attributes=attributes)
    save_moments(Output(f"{root}/moments", "moment sums", parents=parents, config={}), sums, lineage, {})
    save_bundle(
        Output(
            f"{root}/bundle",
            "bundle",
            parents=parents,
            config={"precision": "float32", "sampler": "gaussian"},
        ),
        model=f"{root}/model",
        prior=fit_sampler("gaussian", sums),
        pooled_factor=pooled_factor(sums),
        attributes=attribute_statistics(sums),
        values=value_models(latents, [present[:, :1], present[:, 1:]]),
        examples=rng.integers(0, 256, (2, 8, 8, 3), dtype=np.uint8),
        rows=ROWS,
        result={},
        report={},
    )


def use_bundle(uri: str) -> None:
    """Load a bundle, and do with it what a service does."""
    bundle = load_bundle(uri, "cpu")
    assert all(torch.isfinite(value).all() for value in bundle.codec._network.state_dict().values())
    assert all(np.isfinite(array).all() for array in (bundle.prior.factors, bundle.normals.factor))
    describe(uri)
    images = bundle.sample(2, seed=0)
    assert images.shape == (2, *bundle.codec.config.image_shape)


def use_model(uri: str) -> None:
    """Load a model and encode two images."""
    codec = lbae.load_model(uri, "float32", "cpu")
    assert all(torch.isfinite(value).all() for value in codec._network.state_dict().values())
    codec.encode(np.zeros((2, *codec.config.image_shape), dtype=np.uint8))


def use_moments(uri: str) -> None:
    """Load moment sums with their lineage, and compute with them."""
    sums, manifest = load_moments(uri)
    load_lineage(uri, manifest).combine(load_lineage(uri, manifest), 1)
    assert np.isfinite(sums.moment_matrix).all()
    describe(uri)


def use_table(uri: str) -> None:
    """Read a latent table in every way that jobs do."""
    table = latent_table.open_latent_table(uri)
    for name in table.manifest.files:
        list(table.keys(name))
    table.digest()
    if table.parts:
        table.source_columns()
    for part in table.parts:
        groups, _ = table.footer(part, ["latent"])
        for rows in table.batches(groups, ["key", "latent"]):
            latent_table.packed_latents(rows)
        if groups and groups[0].rows:
            table.row(part, 0, 0)
        table.read(part)
    describe(uri)


USES: dict[str, Callable[[str], None]] = {
    "model": use_model,
    "latents": use_table,
    "moments": use_moments,
    "bundle": use_bundle,
}


def sign(folder: Path, kind: str) -> None:
    """Make a bundle's fingerprint fit its files; no other artifact's fingerprint is read with its files."""
    if kind != "bundle":
        return
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        files = [folder / f"{name}.{'json' if name == 'config' else 'safetensors'}" for name in _BUNDLE_FILES]
        manifest["fingerprint"] = digest(
            *(file.read_bytes() for file in files if file.name in manifest["files"])
        )
        (folder / MANIFEST).write_text(json.dumps(manifest))
    except (ValueError, TypeError, KeyError, RecursionError, FileNotFoundError):
        return  # the manifest itself is mutated, or a file is missing


@contextmanager
def replaced(folder: Path, file: Path, data: bytes | None) -> Iterator[None]:
    """The artifact with another content of one file, or without it."""
    before = {path: path.read_bytes() for path in (file, folder / MANIFEST)}
    try:
        file.unlink() if data is None else file.write_bytes(data)
        yield
    finally:
        for path, content in before.items():
            path.write_bytes(content)


def _limit_memory() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _ROOM_BYTES, resource.RLIM_INFINITY))


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run(root: Path, kind: str, rounds: int) -> dict[str, Any]:
    """Mutate every file of the artifact of a kind, and say how reading it ended.

    ``ROOT/last`` names the last mutation, in case reading it ends the process.
    """
    folder, use = root / kind, USES[kind]
    valid = []
    for _ in range(3):
        started = time.process_time()
        use(str(folder))
        valid.append(time.process_time() - started)
    before, failures, slowest, ends = _peak_mb(), [], (0.0, ""), Counter[str]()
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for file in files:
        name = str(file.relative_to(folder))
        others, data = [path.read_bytes() for path in files if path != file], file.read_bytes()
        for number in range(rounds):
            rng = random.Random(f"{kind} {name} {number}")
            (root / "last").write_text(f"{kind} {name} {number}")
            with replaced(folder, file, mutated(name, data, others, rng)):
                if rng.random() < 0.9:
                    sign(folder, kind)
                started = time.process_time()
                try:
                    use(str(folder))
                    ends["used"] += 1
                except LbaeError:
                    ends["refused"] += 1
                except Exception as error:
                    frame = traceback.extract_tb(error.__traceback__)[-1]
                    place = f"{Path(frame.filename).name}:{frame.lineno}"
                    failures.append(f"{name} {number}: {type(error).__name__} at {place}: {error}"[:300])
                slowest = max(slowest, (time.process_time() - started, f"{name} {number}"))
    return {
        **ends,
        "failures": len(failures),
        "failed": failures,
        "valid_ms": round(1000 * min(valid), 1),
        "slowest_ms": round(1000 * slowest[0], 1),
        "slowest": slowest[1],
        "more_memory_mb": round(_peak_mb() - before, 1),
    }


def main(folder: Path, rounds: int, kinds: list[str]) -> None:
    """Run the kinds in turn, with artifacts in ``folder``."""
    torch.set_num_threads(1)
    write_artifacts(folder)
    for kind in kinds:
        USES[kind](f"{folder}/{kind}")
    _limit_memory()
    print(json.dumps({kind: run(folder, kind, rounds) for kind in kinds}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] or list(USES))
