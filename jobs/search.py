"""Find the images of a latent table that are nearest to one image."""

from lbae.cli import run
from lbae.jobs.use.search import search

if __name__ == "__main__":
    run(search)
