"""``lbae index``."""

from lbae.cli import main

if __name__ == "__main__":
    main("index")
