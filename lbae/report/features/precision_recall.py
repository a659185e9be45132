"""Precision and recall of generated images (Kynkaanniemi et al. 2019), by balls around features.

The ball of an image reaches to its third nearest neighbour in its own set. torch-fidelity measures each set
anew for each pair, and each distance between the sets twice. Here the radii of a set serve all of its pairs.
"""

import torch
from jaxtyping import Float32

from lbae.report.features.feature_sums import NEIGHBOURS, FeatureSums

_CHUNK = 1_000  # rows whose distances to all others are held at a time

Radii = Float32[torch.Tensor, "K"]


def radii(images: FeatureSums) -> Radii:
    """The radius of the ball of each image whose features are kept; at least four images are needed."""
    features = images.features()
    # The nearest is the image itself.
    nearest = [
        torch.cdist(chunk, features).topk(NEIGHBOURS + 1, largest=False)
        for chunk in torch.split(features, _CHUNK)
    ]
    return torch.cat([distances[:, -1] for distances, _ in nearest])


def precision_recall(
    reference: FeatureSums, images: FeatureSums, reference_radii: Radii, image_radii: Radii
) -> dict[str, float]:
    """Precision and recall of images, from the :func:`radii` of both sets.

    ``precision`` is the share of images in a ball of the reference, ``recall`` the share of the reference in
    a ball of the images.
    """
    features, known = images.features(), reference.features()
    inside, found = [], torch.zeros(len(known), dtype=torch.bool)
    for chunk, chunk_radii in zip(
        torch.split(features, _CHUNK), torch.split(image_radii, _CHUNK), strict=True
    ):
        apart = torch.cdist(chunk, known)
        # In half the time of (apart <= radii).any(), and as exact: a difference of floats has the right sign.
        inside.append((apart - reference_radii).amin(dim=1) <= 0)
        found |= apart.sub_(chunk_radii[:, None]).amin(dim=0) <= 0
    return {"precision": torch.cat(inside).float().mean().item(), "recall": found.float().mean().item()}
