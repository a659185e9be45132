"""Training the small classifier of a data set's attributes, in one process."""

from collections.abc import Callable
from typing import TypedDict

import numpy as np
import torch

from lbae.report.features.classifier import BATCH, Classifier
from lbae.report.features.labelled_images import LabelledImages


class ClassifierOptions(TypedDict):
    """The options of :func:`train_classifier` on which its result depends."""

    epochs: int
    least_steps: int
    seed: int


SETTINGS: ClassifierOptions = {"epochs": 6, "least_steps": 120, "seed": 0}
_LEARNING_RATE = 3e-3


def train_classifier(
    examples: LabelledImages,
    *,
    epochs: int,
    least_steps: int,
    seed: int,
    device: str,
    on_epoch: Callable[[int, int, float], None] = lambda done, total, loss: None,
) -> Classifier:
    """Train a classifier of the attributes.

    Args:
        examples: the training images; half of the batches of colour images are mirrored.
        epochs: passes over the images; more are made when these give fewer than ``least_steps`` steps.
        least_steps: the smallest number of steps.
        seed: seed of the weights, the order of the images and the mirroring.
        device: the device to train on.
        on_epoch: called with the number of epochs done, the number of all epochs, and the mean loss.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    images, flip = examples.images, examples.images.shape[3] == 3
    network = Classifier(images.shape[3], examples.attributes, examples.unusable).to(device)
    present, absent = (torch.from_numpy(x).float().to(device) for x in (examples.present, examples.absent))
    steps = max(1, len(images) // BATCH)
    epochs = max(epochs, -(-least_steps // steps))
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, total_steps=epochs * steps)
    for epoch in range(epochs):
        order, total = rng.permutation(len(images)), 0.0
        for step in range(steps):
            index = order[step * BATCH : (step + 1) * BATCH]
            batch = torch.from_numpy(images[index])
            features = network(batch.flip(2) if flip and rng.random() < 0.5 else batch)
            loss = network.loss(features, present[index], absent[index])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        on_epoch(epoch + 1, epochs, total / steps)
    return network.cpu().eval()
