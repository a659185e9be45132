"""A tour of a finished pipeline: pictures of what its bundle does, and one page that shows them."""

import json
from typing import Any

import numpy as np

from lbae.core.bundle import Bundle
from lbae.core.latents.editing import edit_bits
from lbae.core.prior.samplers import fit_sampler
from lbae.io.artifacts.bundle_artifact import load_bundle
from lbae.io.artifacts.moments_artifact import load_moments
from lbae.io.images import encode_png, grid
from lbae.io.sources.decode import decode_every
from lbae.io.sources.hashes import held_out
from lbae.io.sources.plan import plan
from lbae.io.storage.location import resolve
from lbae.report.figures import plots as figures
from lbae.report.figures.pictures import reconstructions
from lbae.report.pages.html import Section, page

_SAMPLES = 64
_STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
_FRAMES = 12
_HOW = {
    "hyperplane": "a random hyperplane through the unit vectors",
    "gaussian": "thresholds on a Gaussian with the means and correlations",
}


def held_out_images(bundle: Bundle, data: str) -> tuple[np.ndarray, np.ndarray]:
    """The held-out images, which training never saw, and their labels as strings."""
    images, labels = [], []
    for part in decode_every(plan(data), bundle.codec.config):
        mask = held_out(part.rows["key"])
        images.append(part.images[mask])
        labels.append(np.array([str(v) for v in part.rows["label"].to_pylist()])[mask])
    return np.concatenate(images), np.concatenate(labels)


def write_tour(
    out: str, *, bundle: str, moments: str, data: str, results: dict[str, Any], change: tuple[str, str]
) -> dict[str, Any]:
    """Write the pictures, ``report.json`` and ``report.html`` to the folder ``out``.

    ``results`` holds what each stage's job returned; ``change`` names the attribute to unset and the one to
    set in the edit, as ``label=VALUE``.
    """
    loaded, sums = load_bundle(bundle), load_moments(moments)[0]
    images, labels = held_out_images(loaded, data)
    rebuilt, error = reconstructions(loaded, images[:32])
    edited, bits_changed = _edits(loaded, images[labels == change[0].partition("=")[2]][:_FRAMES], change)
    pictures = {
        "reconstructions": rebuilt,
        "samples": grid(loaded.decode(loaded.prior.sample(_SAMPLES, 0)), 16),
        "samples_direct": grid(loaded.decode(fit_sampler("direct", sums).sample(_SAMPLES, 0)), 16),
        "interpolation": _paths(loaded, images),
        "edit": edited,
    }
    report = {
        "reconstruction_of_held_out_images": error,
        "moments_of_samples": results["fit"]["fidelity"],
        "edit": {"unset": change[0], "set": change[1], "mean_bits_changed": bits_changed},
        "stages": {
            name: {k: v for k, v in result.items() if k != "history"} for name, result in results.items()
        },
    }
    folder = resolve(out)
    encoded = {name: encode_png(picture) for name, picture in pictures.items()}
    for name, picture in encoded.items():
        (folder / f"{name}.png").write_bytes(picture)
    (folder / "report.json").write_bytes(json.dumps(report, indent=2).encode())
    drawn = {
        "losses": figures.plot_losses({"": results["train"]["history"]}, results["train"]["loss"]),
        "marginals": (resolve(bundle) / "marginals.png").read_bytes(),
        "covariances": (resolve(bundle) / "covariances.png").read_bytes(),
        "lifts": figures.plot_lifts(loaded.attributes),
    }
    (folder / "report.html").write_bytes(
        page("Latent Bernoulli Autoencoder: a tour", _sections(encoded, drawn, report)).encode()
    )
    return report


def _paths(bundle: Bundle, images: np.ndarray) -> np.ndarray:
    paths = [bundle.interpolate(images[2 * i : 2 * i + 2], _FRAMES) for i in range(4)]
    return grid(np.concatenate(paths), _FRAMES)


def _edits(
    bundle: Bundle, images: np.ndarray, change: tuple[str, str]
) -> tuple[np.ndarray, dict[str, float]]:
    """One row of pictures per strength, and the mean number of bits that each strength changed."""
    latents = bundle.encode(images)
    rows = [
        edit_bits(bundle.attributes, latents, [change[1]], [change[0]], strength) for strength in _STRENGTHS
    ]
    changed = {
        str(s): round(float((row != latents).sum(axis=1).mean()), 1)
        for s, row in zip(_STRENGTHS, rows, strict=True)
    }
    return grid(bundle.decode(np.concatenate(rows)), len(images)), changed


def _sections(pictures: dict[str, bytes], drawn: dict[str, bytes], report: dict[str, Any]) -> list[Section]:
    error, edit = report["reconstruction_of_held_out_images"], report["edit"]
    stages = report["stages"]
    return [
        Section(
            title="Reconstructions",
            text=f"Images held out from training, each above its reconstruction from"
            f" {stages['encode']['latent_dim']} bits"
            f" ({error['psnr_db']} dB).",
            pictures=[pictures["reconstructions"]],
        ),
        Section(
            title=f"Samples: {stages['fit']['sampler']}",
            text=f"New images from {_HOW[stages['fit']['sampler']]} of one of {stages['fit']['components']}"
            " components. Nothing was learned for them but the moments of the latents.",
            pictures=[pictures["samples"]],
        ),
        Section(
            title="Samples: direct binarisation",
            text="The baseline: signs of a Gaussian with the latents' mean and covariance.",
            pictures=[pictures["samples_direct"]],
        ),
        Section(
            title="Interpolation",
            text="Four pairs of held-out images; the ends of every row are their exact reconstructions.",
            pictures=[pictures["interpolation"]],
        ),
        Section(
            title="Attribute edit",
            text=f"Top row: reconstructions of held-out images with {edit['unset']}. Below: {edit['set']}"
            f" set and"
            f" {edit['unset']} unset at strengths {', '.join(map(str, _STRENGTHS[1:]))}.",
            pictures=[pictures["edit"]],
        ),
        Section(
            title="Figures of the run",
            pictures=[drawn["losses"], drawn["marginals"], drawn["covariances"], drawn["lifts"]],
        ),
        Section(
            title="Stages",
            rows=[
                (name, f"{r['rows']:,} rows, {r['seconds']} s, {r['fingerprint']}")
                for name, r in stages.items()
            ],
        ),
    ]
