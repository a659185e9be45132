"""The bottleneck between encoder and decoder: bits, or a baseline of the same size in bits (slides 10, 11).

A baseline passes ``N // 32`` float32 numbers where the LBAE passes N bits.
"""

import torch
from torch import Tensor

from lbae.config import Bottleneck
from lbae.core.network.binarize import binarize


def width(latent_dim: int, kind: Bottleneck) -> tuple[int, int]:
    """Number of outputs of the encoder, and of inputs of the decoder."""
    if kind == "bernoulli":
        return latent_dim, latent_dim
    numbers = latent_dim // 32
    return (2 * numbers if kind == "gaussian" else numbers), numbers


def squeeze(activations: Tensor, kind: Bottleneck, training: bool) -> tuple[Tensor, Tensor]:
    """Codes (K, width) of the encoder's activations, and a term of the loss, averaged over the batch.

    The term is 0 for bits and for plain real numbers. Gaussian codes are those of a variational autoencoder
    (Kingma & Welling 2014): a draw from N(mean, exp(log variance)) in training, the mean otherwise. Their
    term is the KL divergence of that distribution from N(0, I).
    """
    if kind == "bernoulli":
        return binarize(activations), activations.new_zeros(())
    if kind == "continuous":
        return activations, activations.new_zeros(())
    mean, log_variance = activations.float().chunk(2, dim=1)
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum() / len(mean)
    if training:
        mean = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
    return mean, divergence
