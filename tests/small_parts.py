"""Run a job that cuts latent tables into small parts: ``python -m tests.small_parts JOB OPTIONS``.

Kills and lost nodes then meet many parts of a small corpus.
"""

import sys

from lbae import cli
from lbae.io.artifacts import latent_parts

ROWS = 50


def cut_small() -> None:
    """Cut what this process encodes into parts of at most 50 rows, if it has at most 25,600."""
    latent_parts._LEAST_ROWS = ROWS


if __name__ == "__main__":
    cut_small()
    cli.main(sys.argv.pop(1))
