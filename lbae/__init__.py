"""Latent Bernoulli Autoencoder on Ray.

``lbae.load_model(uri)`` returns a codec with ``encode`` and ``decode``. ``lbae.load_bundle(uri)`` returns a
bundle with ``encode``, ``decode``, ``reconstruct``, ``sample``, ``vary``, ``interpolate`` and ``edit``.
Neither needs Ray.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["load_bundle", "load_model"]

if TYPE_CHECKING:
    from lbae.io.artifacts.bundle_artifact import load_bundle
    from lbae.io.artifacts.model_artifact import load_model


def __getattr__(name: str) -> Any:
    """Import the public names on first use, because they load torch."""
    if name == "load_bundle":
        from lbae.io.artifacts.bundle_artifact import load_bundle

        return load_bundle
    if name == "load_model":
        from lbae.io.artifacts.model_artifact import load_model

        return load_model
    raise AttributeError(f"module 'lbae' has no attribute {name!r}")
