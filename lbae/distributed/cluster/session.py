"""The Ray session of a job: join a cluster, or start a local one for the duration of the job."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.exceptions import RayError

from lbae.distributed.cluster.connection import connect
from lbae.distributed.cluster.failures import root_cause
from lbae.distributed.cluster.resources import wait_for_gpus
from lbae.errors import UnforeseenError

_logger = logging.getLogger(__name__)


@contextmanager
def session(address: str | None = None, gpus: int | None = None) -> Iterator[None]:
    """Hold a Ray session: join a cluster, or start a local Ray and stop it at the end.

    Joins the cluster at ``address``, else that of RAY_ADDRESS or of this machine's ``ray start``.

    A Ray that is connected already (a notebook's, a test's) is used and left connected. ``gpus`` are waited
    for as in :func:`wait_for_gpus`: an autoscaling cluster has GPU nodes only while a job asks for them.

    Raises:
        LbaeError: What a task raised, see :func:`root_cause`, or the connection failed, see :func:`connect`.
    """
    # A task that fails fails all its results: the one that is fetched carries the error, the others print it.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    joined = ray.is_initialized()
    if not joined:
        connect(address)
    try:
        if gpus is not None:
            wait_for_gpus(gpus)
        yield
    except RayError as error:
        cause = root_cause(error)
        if isinstance(cause, UnforeseenError):
            _logger.error("a task failed: %s", error)  # with the traceback of its process
        raise cause from error
    finally:
        if not joined:
            ray.shutdown()
