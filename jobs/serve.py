"""Serve a bundle over HTTP with Ray Serve until interrupted, or change the bundle of a service that runs."""

from lbae.cli import run
from lbae.distributed.serve.service import serve

if __name__ == "__main__":
    run(serve)
