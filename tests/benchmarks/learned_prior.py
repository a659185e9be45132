"""A learned prior against the bundle's, in at most eight minutes of a GPU (docs/measurements.md).

``python -m tests.benchmarks.learned_prior BUNDLE TRAIN_TABLE TEST_TABLE [MINUTES]``

A denoiser of bits learns to undo random flips: discrete diffusion with two states (Austin et al. 2021). It
sees the latents of the training images and of their mirror images at the cells' resolution. Distances are
taken in the features of the evaluation's classifier, which is trained first.
"""

import itertools
import sys
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lbae.core.bundle import Bundle
from lbae.core.prior.memorization import nearest_facts
from lbae.io.artifacts.bundle_artifact import load_bundle
from lbae.io.sources.decode import decode_every
from lbae.io.sources.plan import plan
from lbae.report.features.classifier import Classifier
from lbae.report.features.classifier_training import SETTINGS, train_classifier
from lbae.report.features.distances import frechet
from lbae.report.features.feature_sums import FeatureSums
from lbae.report.features.labelled_images import read_labelled_images

WIDTH, DEPTH, HEADS, DROPOUT, BATCH = 256, 4, 8, 0.1, 512
SAMPLES, STEPS, HELD_OUT = 10_000, 64, 2_000
CHECK_S, PATIENCE = 10.0, 4  # held-out checks: seconds between two, and how many may bring nothing
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Mixer(nn.Module):
    """A residual pair of convolutions, then attention between the cells."""

    def __init__(self) -> None:
        super().__init__()
        self.convolve = nn.Sequential(
            *(nn.GroupNorm(8, WIDTH), nn.SiLU(), nn.Conv2d(WIDTH, WIDTH, 3, padding=1)),
            *(nn.GroupNorm(8, WIDTH), nn.SiLU(), nn.Dropout(DROPOUT), nn.Conv2d(WIDTH, WIDTH, 3, padding=1)),
        )
        self.norm = nn.LayerNorm(WIDTH)
        self.attend = nn.MultiheadAttention(WIDTH, HEADS, dropout=DROPOUT, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.convolve(x)
        cells = self.norm(x.flatten(2).mT)
        mixed, _ = self.attend(cells, cells, cells, need_weights=False)
        out: Tensor = x + mixed.mT.reshape(x.shape)
        return out


class Denoiser(nn.Module):
    """Logits of +1 per bit (K, N), given bits of which a share was flipped, and that share (K,)."""

    def __init__(self, grid: int, bits: int) -> None:
        super().__init__()
        self.grid, self.per_cell = grid, bits // grid**2
        self.start = nn.Conv2d(self.per_cell, WIDTH, 3, padding=1)
        self.place = nn.Parameter(torch.zeros(1, WIDTH, grid, grid))
        self.level = nn.Sequential(nn.Linear(1, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        self.body = nn.Sequential(*(Mixer() for _ in range(DEPTH)))
        self.end = nn.Sequential(nn.GroupNorm(8, WIDTH), nn.SiLU(), nn.Conv2d(WIDTH, self.per_cell, 1))

    def forward(self, bits: Tensor, flipped: Tensor) -> Tensor:
        cells = bits.reshape(len(bits), self.grid, self.grid, self.per_cell).permute(0, 3, 1, 2)
        level = self.level(flipped[:, None])[:, :, None, None]
        out = self.end(self.body(self.start(cells) + self.place + level))
        return out.permute(0, 2, 3, 1).flatten(1)


def noisy(bits: Tensor, flipped: Tensor) -> Tensor:
    return torch.where(torch.rand_like(bits) < flipped[:, None], -bits, bits)


def batches(latents: np.ndarray, rng: np.random.Generator) -> Iterator[Tensor]:
    while True:
        yield torch.from_numpy(latents[rng.integers(len(latents), size=BATCH)]).float().to(DEVICE)


def train_denoiser(latents: np.ndarray, held_out: np.ndarray, grid: int, seconds: float) -> nn.Module:
    """The averaged denoiser with the least held-out cross-entropy, within the time."""
    network = Denoiser(grid, latents.shape[1]).to(DEVICE)
    averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.999), use_buffers=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-4, weight_decay=1e-2)
    unseen = torch.from_numpy(held_out).float().to(DEVICE)
    levels = torch.linspace(0.02, 0.5, len(unseen), device=DEVICE)
    torch.manual_seed(0)
    damaged = noisy(unseen, levels)
    began, checked, best, bad, steps = time.monotonic(), time.monotonic(), (np.inf, {}), 0, 0
    for bits in batches(latents, np.random.default_rng(0)):
        flipped = torch.rand(len(bits), device=DEVICE) / 2
        with torch.autocast(DEVICE.type, torch.bfloat16):
            logits = network(noisy(bits, flipped), flipped)
        loss = functional.binary_cross_entropy_with_logits(logits.float(), (bits + 1) / 2)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        averaged.update_parameters(network)
        steps, now = steps + 1, time.monotonic()
        if now - checked < CHECK_S and now - began < seconds:
            continue
        checked, score = now, cross_entropy(averaged, unseen, damaged, levels)
        print(
            f"{steps} steps, {now - began:.0f} s, cross-entropy {loss:.4f}, held out {score:.4f}", flush=True
        )
        bad = 0 if score < best[0] else bad + 1
        if score < best[0]:
            best = score, {name: value.clone() for name, value in averaged.state_dict().items()}
        if now - began >= seconds or bad == PATIENCE:
            break
    averaged.load_state_dict(best[1])
    return averaged.eval()


@torch.inference_mode()
def cross_entropy(network: nn.Module, bits: Tensor, damaged: Tensor, levels: Tensor) -> float:
    network.eval()
    logits = torch.cat(
        [network(*pair) for pair in zip(damaged.split(BATCH), levels.split(BATCH), strict=True)]
    )
    network.train()
    return float(functional.binary_cross_entropy_with_logits(logits, (bits + 1) / 2))


@torch.inference_mode()
def draw(network: nn.Module, count: int, bits: int) -> np.ndarray:
    """Latents by ancestral sampling: fair coins first, then ever fewer flips."""
    torch.manual_seed(1)
    drawn = []
    levels = torch.linspace(0.5, 0, STEPS + 1).tolist()
    for size in [BATCH] * (count // BATCH) + ([count % BATCH] if count % BATCH else []):
        x = torch.randint(0, 2, (size, bits), device=DEVICE).float() * 2 - 1
        for now, after in itertools.pairwise(levels):
            up = network(x, torch.full((size,), now, device=DEVICE)).sigmoid()
            # 1 - 2 now = (1 - 2 after) (1 - 2 between): flips between the two levels.
            between = 0.5 * (1 - (1 - 2 * now) / (1 - 2 * after))
            told = torch.where(x > 0, 1 - between, between)  # P(x now | +1 after)
            chance = torch.zeros_like(x)
            for share, kept in ((up, 1 - after), (1 - up, after)):  # of a clean bit +1, and of -1
                chance += share * told * kept / (told * kept + (1 - told) * (1 - kept)).clamp_min(1e-12)
            x = torch.where(torch.rand_like(x) < chance, 1.0, -1.0)
        drawn.append(x.to(torch.int8).cpu().numpy())
    return np.concatenate(drawn)


def images_of(bundle: Bundle, table: str) -> np.ndarray:
    return np.concatenate([part.images for part in decode_every(plan(table), bundle.codec.config)])


def feature_sums(classifier: Classifier, images: np.ndarray) -> FeatureSums:
    sums = FeatureSums.empty(classifier.num_features)
    sums.add(classifier.features(images).numpy(), np.ones(len(images), dtype=bool))
    return sums


def main(bundle_path: str, train: str, test: str, minutes: float = 8.0) -> None:
    """Train the classifier and the denoiser, and print a table."""
    ends = time.monotonic() + 60 * minutes
    bundle = load_bundle(bundle_path, DEVICE.type)
    config = bundle.codec.config
    source = plan(train)
    examples = read_labelled_images(source.uri, source.shards, config)
    classifier = train_classifier(examples, **SETTINGS, device=DEVICE.type)
    seen, unseen = images_of(bundle, train), images_of(bundle, test)
    latents = bundle.encode(seen)
    rows = np.random.default_rng(0).permutation(len(latents))
    held, kept = rows[: min(HELD_OUT, len(rows) // 10)], rows[min(HELD_OUT, len(rows) // 10) :]
    mirrored = [] if config.image_channels == 1 else [bundle.encode(seen[kept][:, :, ::-1])]  # not of digits
    together = np.concatenate([latents[kept], *mirrored])
    print(f"ready, {ends - time.monotonic():.0f} s left", flush=True)
    left = ends - time.monotonic()
    network = train_denoiser(together, latents[held], config.latent_grid, 0.7 * left)
    count = min(SAMPLES, len(unseen))
    test_latents = bundle.encode(unseen)
    kinds = {
        "reconstructions": test_latents,
        "bundle": bundle.prior.sample(count, 0),
        "denoiser": draw(network, count, config.latent_dim),
    }
    reference = feature_sums(classifier, unseen)
    print(torch.cuda.get_device_name() if DEVICE.type == "cuda" else "a CPU: figures of a trial only")
    print("| latents | Fréchet distance | nearest training latent, 1st and 50th percentile |\n|---|--:|--:|")
    for kind, made in kinds.items():
        distance = frechet(reference, feature_sums(classifier, bundle.codec.decode(made)))["frechet"]
        print(f"| {kind} | {distance:.3f} | {nearest_facts(made, latents)['percentiles_1_50']} |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:4], *(float(value) for value in sys.argv[4:5]))
