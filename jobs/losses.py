"""Draw the losses of several models over epochs in one figure."""

from lbae.cli import run
from lbae.jobs.inspect.losses import losses

if __name__ == "__main__":
    run(losses)
