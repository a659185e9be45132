"""Describe any artifact: kind, lineage, rows, configuration, bit statistics, the leading bits of attributes."""

from typing import Any

from lbae.cli import run
from lbae.io.describe import describe


def show(uri: str, /) -> dict[str, Any]:
    """Describe an artifact.

    Args:
        uri: URI of a model, latent table, moment sums, bundle or image table.
    """
    return describe(uri)


if __name__ == "__main__":
    run(show)
