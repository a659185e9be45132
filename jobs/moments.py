"""Add, subtract and compare moment sums."""

from lbae.cli import run
from lbae.jobs.inspect.drift import drift
from lbae.jobs.inspect.moment_algebra import add, subtract

if __name__ == "__main__":
    run({"add": add, "subtract": subtract, "drift": drift})
