"""Score a bundle: distances of its reconstructions and samples, and of the baselines' samples, to real test images."""

from lbae.cli import run
from lbae.distributed.evaluate.evaluation import evaluate

if __name__ == "__main__":
    run(evaluate)
