"""Fit the prior and the attribute statistics, and publish the bundle."""

from lbae.cli import run
from lbae.distributed.fit.components import fit

if __name__ == "__main__":
    run(fit)
