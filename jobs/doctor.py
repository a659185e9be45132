"""Check this machine, the Ray cluster and storages, and say what to mend."""

from lbae.cli import run
from lbae.jobs.inspect.doctor import doctor

if __name__ == "__main__":
    run(doctor)
