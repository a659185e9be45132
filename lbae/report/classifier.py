"""A small image classifier whose features stand in for Inception's: it needs labels, but no weights from anywhere.

Distances in its features compare priors of one data set with each other and with nothing published.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.torch
import torch
from jaxtyping import UInt8
from torch import Tensor, nn
from torch.nn import functional

from lbae.core.codec import autocast, best_precision
from lbae.io.artifact import begin, digest, publish, read_manifest
from lbae.io.storage import resolve
from lbae.report.progress import ProgressLine

KIND = "classifier"
FEATURES = 128
_BATCH = 256
_EPOCHS = 6
_LEARNING_RATE = 3e-3
_WEIGHTS = "weights.safetensors"

Images = UInt8[np.ndarray, "K H W C"]


class Classifier(nn.Module):
    """uint8 images (K, H, W, C) to features (K, 128), the input of a linear head over the classes."""

    num_features = FEATURES  # what torchmetrics asks of a feature extractor

    def __init__(self, channels: int, classes: list[str]) -> None:
        super().__init__()
        self.channels, self.classes = channels, classes
        self.body = nn.Sequential(
            *_block(channels, 32, 1),
            *_block(32, 64, 2),
            *_block(64, 128, 1),
            *_block(128, 128, 2),
            *_block(128, 256, 1),
            nn.Conv2d(256, FEATURES, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        ).to(memory_format=torch.channels_last)
        self.head = nn.Linear(FEATURES, len(classes))

    def forward(self, images: Tensor) -> Tensor:
        """Features, float32."""
        device = self.head.weight.device
        pixels = images.to(device).permute(0, 3, 1, 2).float().div_(255).sub_(0.5)
        with autocast(device, best_precision(device)):
            return self.body(pixels.contiguous(memory_format=torch.channels_last)).float()


def _block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


def train_classifier(
    images: Images,
    labels: list[str],
    *,
    epochs: int,
    flip: bool,
    seed: int,
    on_epoch: Callable[[int, float], None] = lambda number, loss: None,
) -> Classifier:
    """A classifier of the labels, on a GPU when there is one; ``flip`` mirrors half of the batches."""
    classes = sorted(set(labels))
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network = Classifier(images.shape[3], classes).to("cuda" if torch.cuda.is_available() else "cpu")
    device = network.head.weight.device
    target = torch.tensor(np.searchsorted(classes, labels), device=device)
    steps = max(1, len(images) // _BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, total_steps=epochs * steps)
    for epoch in range(epochs):
        order, total = rng.permutation(len(images)), 0.0
        for step in range(steps):
            index = order[step * _BATCH : (step + 1) * _BATCH]
            batch = torch.from_numpy(images[index])
            features = network(batch.flip(2) if flip and rng.random() < 0.5 else batch)
            loss = functional.cross_entropy(network.head(features), target[index])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        on_epoch(epoch + 1, total / steps)
    return network.eval()


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a classifier makes of images: features (K, 128) and class probabilities (K, classes), float32."""

    features: Tensor
    probabilities: Tensor


@torch.inference_mode()
def look(network: Classifier, images: Images) -> Seen:
    """Features and probabilities of images, some at a time."""
    features = torch.cat([network(torch.from_numpy(images[i : i + _BATCH])) for i in range(0, len(images), _BATCH)])
    return Seen(features=features, probabilities=network.head(features).softmax(dim=1))


def load_or_train(uri: str, images: Images, labels: list[str], data: str) -> tuple[Classifier, str]:
    """The classifier published at ``uri``, trained there first when there is none, and its fingerprint.

    ``data`` is the fingerprint of the source of the images. UserError when the one at ``uri`` is of other images.
    """
    config = {"epochs": _EPOCHS, "flip": images.shape[3] == 3, "seed": 0}
    if not begin(uri, KIND, {"data": data}, config, overwrite=False):
        with ProgressLine("classifier", _EPOCHS, "epochs") as line:
            network = train_classifier(
                images, labels, **config, on_epoch=lambda number, loss: line.update(number, note=f"loss {loss:.3f}")
            )
        _save(uri, network, {"data": data}, config, len(images))
    manifest = read_manifest(uri, KIND)
    network = Classifier(manifest.result["channels"], manifest.result["classes"])
    network.load_state_dict(safetensors.torch.load((resolve(uri) / _WEIGHTS).read_bytes()))
    return network.to("cuda" if torch.cuda.is_available() else "cpu").eval(), manifest.fingerprint


def _save(uri: str, network: Classifier, parents: dict[str, str], config: dict[str, Any], rows: int) -> None:
    weights = safetensors.torch.save({name: value.cpu().contiguous() for name, value in network.state_dict().items()})
    (resolve(uri) / _WEIGHTS).write_bytes(weights)
    shape = {"channels": network.channels, "classes": network.classes}
    fingerprint = digest(weights, json.dumps(shape).encode())
    publish(uri, KIND, fingerprint=fingerprint, parents=parents, config=config, rows=rows, files=(_WEIGHTS,), result=shape)
