"""``lbae vary``."""

from lbae.cli import main

if __name__ == "__main__":
    main("vary")
