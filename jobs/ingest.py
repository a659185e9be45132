"""Write any source of images as an image table, with Ray Data."""

from lbae.cli import run
from lbae.jobs.build.ingest import ingest

if __name__ == "__main__":
    run(ingest)
