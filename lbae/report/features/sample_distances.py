"""Models with different bottlenecks, by the distance of their samples to test images (slides 10 and 11).

Every prior is one Gaussian without components, so that bottlenecks are compared and not priors. It runs in
this process, at float32, for data sets that fit into its memory.
"""

from collections.abc import Iterator, Mapping

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
from lbae.report.features.classifier import FEATURES, SETTINGS, Classifier, read_examples, train_classifier
from lbae.report.features.distances import distances
from lbae.report.features.feature_sums import FeatureSums, check_count

_ROWS, _BATCH = 60_000, 256

Images = UInt8[np.ndarray, "K H W C"]


def sample_distances(models: Mapping[str, str], data: str, train_data: str) -> dict[str, float]:
    """Fréchet classifier distances to test images of as many samples of every model, by the models' names.

    UserError when models make images of different shapes, training images have no labels, or there are too
    few images.
    """
    networks = {name: read_network(uri)[0].eval() for name, uri in models.items()}
    shapes = {network.config.image_shape for network in networks.values()}
    if len(shapes) != 1:
        raise UserError(f"the models make images of different shapes ({', '.join(map(str, sorted(shapes)))})")
    config = next(iter(networks.values())).config
    test, train = plan(data), plan(train_data)
    check_count(test.rows, FEATURES, ("frechet",), f"test images of {test.uri}")
    examples = read_examples(spread(train.shards, _ROWS), config)
    if isinstance(examples, str):
        raise UserError(
            f"a classifier of the training images needs labels or attributes; {train_data} has {examples}"
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    classifier = train_classifier(
        examples,
        epochs=SETTINGS["epochs"],
        least_steps=SETTINGS["least_steps"],
        seed=SETTINGS["seed"],
        device=device,
    )
    reference = _sums(classifier, (part.images for part in decode_every(test, config)))
    made = {name: _samples(network, examples.images, reference.count) for name, network in networks.items()}
    apart = {
        name: distances(reference, _sums(classifier, samples), ("frechet",)) for name, samples in made.items()
    }
    return {name: round(found["frechet"], 4) for name, found in apart.items()}


def _sums(classifier: Classifier, batches: Iterator[Images]) -> FeatureSums:
    sums = FeatureSums.empty(FEATURES)
    for images in batches:
        sums.add(classifier.features(images).numpy(), np.zeros(len(images), dtype=bool))
    return sums


@torch.inference_mode()
def _samples(network: LatentBernoulliAutoencoder, training: Images, count: int) -> Iterator[Images]:
    """New images by a Gaussian of the training images' codes."""
    config = network.config
    chunks = torch.split(torch.from_numpy(training), _BATCH)
    codes = np.concatenate([network.encode(to_network(chunk, config)).numpy() for chunk in chunks])
    drawn = torch.from_numpy(draw_codes(config.bottleneck, codes, count, seed=0))
    for chunk in torch.split(drawn, _BATCH):
        yield from_network(network.decode_logits(chunk), config).numpy()
