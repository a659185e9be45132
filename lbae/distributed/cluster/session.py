"""The Ray session of a job: join a cluster, or start a local one for the duration of the job."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import ray
from ray.exceptions import RayError

from lbae.distributed.cluster.connection import connect
from lbae.distributed.cluster.failures import root_cause
from lbae.distributed.cluster.node_watch import watched_nodes
from lbae.distributed.cluster.resources import wait_for_gpus
from lbae.errors import UnforeseenError

_logger = logging.getLogger(__name__)


@contextmanager
def session(address: str | None = None, gpus: int | None = None, *, little: bool = False) -> Iterator[None]:
    """Hold a Ray session: join a cluster, or start a local Ray and stop it at the end.

    :func:`connect` says which cluster. If this process is already connected to Ray (in a notebook or a test),
    that connection is used and stays open. With ``gpus``, the session waits for them (:func:`wait_for_gpus`),
    because an autoscaling cluster has GPU nodes only while a job asks for them. Nodes that leave the cluster
    are logged (:func:`watched_nodes`).

    With ``little``, the work takes less time than starting Ray, so this process does it alone
    (:func:`lbae.distributed.cluster.calls.call_each`). It joins a cluster that ``address`` or RAY_ADDRESS
    names, and keeps a connection that it has.

    Raises:
        LbaeError: The error that a task raised (:func:`root_cause`) or that the connection failed with
            (:func:`connect`).
    """
    # When a task with several results fails, Ray prints an error for each result that nobody fetches.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    joined = ray.is_initialized()
    if little and not (joined or address or os.environ.get("RAY_ADDRESS")):
        yield
        return
    if not joined:
        connect(address)
    try:
        with nullcontext() if joined else watched_nodes():
            if gpus is not None:
                wait_for_gpus(gpus)
            yield
    except RayError as error:
        cause = root_cause(error)
        if isinstance(cause, UnforeseenError):
            _logger.error("a task failed: %s", error)  # the text holds the traceback of the task's process
        raise cause from error
    finally:
        if not joined:
            ray.shutdown()
