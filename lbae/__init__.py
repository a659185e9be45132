"""Latent Bernoulli Autoencoder on Ray.

``lbae.load_model(uri)`` returns a codec with ``encode`` and ``decode``. ``lbae.load_bundle(uri)`` returns a
bundle with ``encode``, ``decode``, ``reconstruct``, ``sample``, ``vary``, ``interpolate`` and ``edit``.
``lbae.grid(images)`` is a picture that notebooks show. None of them needs Ray.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Bundle", "Codec", "grid", "load_bundle", "load_model"]

if TYPE_CHECKING:
    from lbae.core.bundle import Bundle
    from lbae.core.network.codec import Codec
    from lbae.io.artifacts.bundle_artifact import load_bundle
    from lbae.io.artifacts.model_artifact import load_model
    from lbae.io.picture import grid

_MODULES = {
    "Bundle": "lbae.core.bundle",
    "Codec": "lbae.core.network.codec",
    "grid": "lbae.io.picture",
    "load_bundle": "lbae.io.artifacts.bundle_artifact",
    "load_model": "lbae.io.artifacts.model_artifact",
}

if not TYPE_CHECKING:  # a checker that saw it would take every misspelt name for Any

    def __getattr__(name: str) -> Any:
        """Import the public names on first use, because they load torch."""
        if name not in _MODULES:
            raise AttributeError(f"module 'lbae' has no attribute {name!r}")
        return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """Show completion the names that are not imported yet."""
    return sorted({*globals(), *__all__})
