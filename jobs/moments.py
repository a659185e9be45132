"""Add, subtract and compare moment sums."""

from lbae.cli import run
from lbae.io.moment_algebra import add, subtract
from lbae.report.drift import drift

if __name__ == "__main__":
    run({"add": add, "subtract": subtract, "drift": drift})
