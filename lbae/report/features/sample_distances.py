"""Distances to test images of the samples of models with different bottlenecks (slides 10 and 11).

Every prior is one Gaussian without components, because this compares bottlenecks, not priors. Everything runs
in this process in float32, so the data sets must fit into its memory.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import UInt8

from lbae.core.network.autoencoder import LatentBernoulliAutoencoder
from lbae.core.network.codec import from_network, to_network
from lbae.core.prior.samplers import draw_codes
from lbae.errors import UserError
from lbae.io.artifacts.model_artifact import read_network
from lbae.io.sources.decode import decode_every
from lbae.io.sources.plan import plan
from lbae.io.sources.source import spread
from lbae.report.features.classifier import FEATURES, Classifier
from lbae.report.features.classifier_training import SETTINGS, train_classifier
from lbae.report.features.distances import frechet
from lbae.report.features.feature_sums import FeatureSums, check_count
from lbae.report.features.labelled_images import read_labelled_images

_ROWS, _BATCH = 60_000, 256

Images = UInt8[np.ndarray, "K H W C"]


def sample_distances(
    models: Mapping[str, str], data: str | Sequence[str], train_data: str | Sequence[str]
) -> dict[str, float]:
    """The Fréchet classifier distance between the test images and as many samples of each model, by name.

    UserError when the models make images of different shapes, the training images have no labels, or there
    are too few images.
    """
    networks = {name: read_network(uri)[0].eval() for name, uri in models.items()}
    shapes = {network.config.image_shape for network in networks.values()}
    if len(shapes) != 1:
        raise UserError(f"the models make images of different shapes ({', '.join(map(str, sorted(shapes)))})")
    config = next(iter(networks.values())).config
    test, train = plan(data), plan(train_data)
    check_count(test.rows, FEATURES, ("frechet",), f"test images of {test.uri}")
    examples = read_labelled_images(train.uri, spread(train.shards, _ROWS), config)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    classifier = train_classifier(examples, **SETTINGS, device=device)
    reference = _sums(classifier, (part.images for part in decode_every(test, config)))
    made = {name: _samples(network, examples.images, reference.count) for name, network in networks.items()}
    apart = {name: frechet(reference, _sums(classifier, samples)) for name, samples in made.items()}
    return {name: round(found["frechet"], 4) for name, found in apart.items()}


def _sums(classifier: Classifier, batches: Iterator[Images]) -> FeatureSums:
    sums = FeatureSums.empty(FEATURES)
    for images in batches:
        sums.add(classifier.features(images).numpy(), np.zeros(len(images), dtype=bool))
    return sums


@torch.inference_mode()
def _samples(network: LatentBernoulliAutoencoder, training: Images, count: int) -> Iterator[Images]:
    """New images from a Gaussian fitted to the codes of the training images."""
    config = network.config
    chunks = torch.split(torch.from_numpy(training), _BATCH)
    codes = np.concatenate([network.encode(to_network(chunk, config)).numpy() for chunk in chunks])
    drawn = torch.from_numpy(draw_codes(config.bottleneck, codes, count, seed=0))
    for chunk in torch.split(drawn, _BATCH):
        yield from_network(network.decode_logits(chunk), config).numpy()
