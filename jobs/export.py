"""Export a model's encoder and decoder with ``torch.export``."""

from lbae.cli import run
from lbae.jobs.inspect.export import export

if __name__ == "__main__":
    run(export)
