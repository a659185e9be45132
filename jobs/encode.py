"""Encode images into a Parquet table of bit-packed latents with Ray Data."""

from lbae.cli import run
from lbae.distributed.encode.encoder import encode

if __name__ == "__main__":
    run(encode)
