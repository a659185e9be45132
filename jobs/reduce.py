"""Reduce a latent table to exact moment sums."""

from lbae.cli import run
from lbae.jobs.build.reduce import reduce

if __name__ == "__main__":
    run(reduce)
