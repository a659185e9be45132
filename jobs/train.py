"""Train an LBAE with Ray Train and publish the model."""

from lbae.cli import run
from lbae.distributed.train.trainer import train

if __name__ == "__main__":
    run(train)
