"""Write the golden artifacts of the current format version: ``python -m tests.golden.make``.

Run once per format version, never again: later code must read what the version's code wrote.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from lbae.config import Config, ModelConfig, TrainConfig
from lbae.core.latents.normals import pooled_factor
from lbae.core.latents.packing import pack
from lbae.core.moments.attribute_statistics import attribute_statistics
from lbae.core.moments.moment_accumulator import sum_packed
from lbae.core.network.autoencoder import LatentBernoulliAutoencoder
from lbae.core.prior.samplers import fit_sampler
from lbae.io.artifacts import latent_table
from lbae.io.artifacts.bundle_artifact import save_bundle
from lbae.io.artifacts.manifest import FORMAT_VERSION
from lbae.io.artifacts.model_artifact import save_model
from lbae.io.artifacts.moments_artifact import Lineage, save_moments
from lbae.io.artifacts.output import Output
from lbae.io.storage.parquet_file import write_parquet

HERE = Path(__file__).parent
CONFIG = Config(
    model=ModelConfig(latent_dim=11, image_size=16, image_channels=1, channels=(2, 2)),
    train=TrainConfig(epochs=1),
)


def latents() -> np.ndarray:
    """Forty latents of 11 bits that correlate with a label."""
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(40, 11)) + np.where(np.arange(40) % 2, 0.8, -0.4)[:, None]
    return np.where(hidden >= 0, np.int8(1), np.int8(-1))


def main() -> None:
    """Write a model, latents, moment sums and a bundle."""
    root = HERE / f"v{FORMAT_VERSION}"
    network = LatentBernoulliAutoencoder(CONFIG.model, torch.Generator().manual_seed(0))
    output = Output(str(root / "model"), "model", parents={}, config=CONFIG.to_dict())
    model = save_model(output, network, CONFIG, {"images": 0})
    keys = pa.array([f"image-{i}" for i in range(40)])
    label = pa.table({"label": [i % 2 for i in range(40)]})
    part = latent_table.latent_rows(keys, pack(latents()), label, 11, model["fingerprint"])
    out = str(root / "latents")
    write_parquet(out, "data/part-00000.parquet", part)
    parents = {"model": model["fingerprint"], "data": "none"}
    made = Output(out, latent_table.KIND, parents=parents, config={"latent_dim": 11}).publish(
        fingerprint="golden",
        rows=40,
        files=["data/part-00000.parquet"],
        result={"precision": "float32"},
    )
    present = (np.arange(40) % 2 == 1)[:, None]
    sums = sum_packed(pack(latents()), 11, ("label",), present, ~present)
    parents = {"latents": made["fingerprint"], "model": model["fingerprint"]}
    output = Output(str(root / "moments"), "moment sums", parents=parents, config={"attributes": "all"})
    moments = save_moments(output, sums, Lineage(tables={}, parts={}), {})
    parents = {**parents, "moments": moments["fingerprint"]}
    save_bundle(
        Output(str(root / "bundle"), "bundle", parents=parents, config={"precision": "float32"}),
        model=str(root / "model"),
        prior=fit_sampler("hyperplane", sums),
        pooled_factor=pooled_factor(sums),
        attributes=attribute_statistics(sums),
        values=None,
        examples=np.empty((0, 0, 0, 0), dtype=np.uint8),
        rows=40,
        result={},
        report={},
    )


if __name__ == "__main__":
    main()
