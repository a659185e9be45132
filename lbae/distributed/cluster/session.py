"""The Ray session of a job: join the cluster there is, or start a local one for the time of the job."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.exceptions import RayError

from lbae.distributed.cluster.connection import connect
from lbae.distributed.cluster.failures import root_cause
from lbae.distributed.cluster.resources import wait_for_gpus


@contextmanager
def session(address: str | None = None, gpus: int | None = None) -> Iterator[None]:
    """Connect to ``address``, else to the cluster of RAY_ADDRESS or of this machine's ``ray start``, else
    start a local Ray.

    A Ray that is connected already (a notebook's, a test's) is used and left alone. Where ``gpus`` are asked
    for, they are waited for as :func:`wait_for` does: a cluster may have nodes with GPUs only while somebody
    wants them. Errors of this package that tasks raise come out as themselves; what connecting raises says
    :func:`lbae.distributed.cluster.connection.connect`.
    """
    # A task that fails fails all its results; the one that is asked for carries the error, the others would
    # print it.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    joined = ray.is_initialized()
    if not joined:
        connect(address)
    try:
        if gpus is not None:
            wait_for_gpus(gpus)
        yield
    except RayError as error:
        raise root_cause(error) from error
    finally:
        if not joined:
            ray.shutdown()
