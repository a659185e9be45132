"""Connect a job to a Ray cluster, with errors that say why it failed and what to do."""

import errno
import functools
import logging
import os
import socket

import ray
from ray.exceptions import AuthenticationError

from lbae.distributed.cluster.ray_private import address_of_last_start
from lbae.errors import LbaeError, UserError
from lbae.io import machine_facts
from lbae.signals import sigterm_handler_kept

_ANSWER_S = 5.0
_UNUSABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.ENOSPC)
_TOKEN = (
    "a cluster that asks for a token needs RAY_AUTH_MODE=token and the same ~/.ray/auth_token on every node"
    " and client (`ray get-auth-token --generate` makes one for a new cluster)"
)


def connect(address: str | None) -> None:
    """Join or start a Ray cluster; the process keeps its SIGTERM handler.

    Joins the cluster at ``address``, else at RAY_ADDRESS, else at the address of this machine's last
    ``ray start``. If there is none of these, starts a local Ray.

    Raises:
        LbaeError: No cluster answers, or /dev/shm is too small for a local Ray.
        UserError: The address is the dashboard's; the cluster runs other versions of Ray or Python, or asks
            for a token that this machine lacks; or Ray cannot write its files.
    """
    _log_as_others_do()
    quiet = functools.partial(ray.init, address=address, logging_level=logging.ERROR, log_to_driver=False)
    place = address or "the address of RAY_ADDRESS or of the last `ray start` (`ray stop` forgets it)"
    _check_answers(address)
    free = machine_facts.shared_memory_bytes()
    try:
        with sigterm_handler_kept():
            try:
                quiet(object_store_memory=machine_facts.STORE_BYTES)
                _check_shared_memory(free)
            except ValueError:
                # An existing cluster refuses the argument, since it has its own object store. Trying
                # address="auto" instead would also join another job's local Ray.
                quiet()
    except ConnectionError as error:  # Ray raises it for a refused token too, and only logs that reason
        raise LbaeError(
            f"no Ray cluster answers at {place}, or it refuses this machine's token ({error}); {_TOKEN}"
        ) from error
    except OSError as error:
        if error.errno not in _UNUSABLE and "AF_UNIX" not in str(error):
            raise
        folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR", "/tmp")
        if error.filename and not str(error.filename).startswith(folder):  # such as ~/.ray
            folder, variable, more = error.filename, "HOME", ""
        else:
            variable, more = "RAY_TMPDIR", " with a short path, such as /tmp"
        raise UserError(
            f"Ray cannot write its files in {folder} ({error}); set {variable} to a writable folder{more}"
        ) from error
    except AuthenticationError as error:
        raise UserError(f"the Ray cluster at {place} asks for a token ({error.message}); {_TOKEN}") from error
    except RuntimeError as error:
        if "Version mismatch" not in str(error):
            raise
        raise UserError(
            f"the Ray cluster at {place} runs other versions than this job:"
            f" {str(error).partition(': ')[2]}Ray and Python"
            " must be the same on both; use the cluster's versions, or submit the job to it with"
            " `ray job submit`"
        ) from error


def _log_as_others_do() -> None:
    """Show only errors of Ray, in the log format of other libraries (Ray 2.60 installs its own handlers)."""
    if os.environ.get("LBAE_LOG") == "json":
        os.environ.setdefault("RAY_BACKEND_LOG_JSON", "1")
    for name in ("ray", "ray.data", "ray.serve"):  # jobs show their own progress
        logger = logging.getLogger(name)
        logger.setLevel(logging.ERROR)
        logger.propagate = True
        for handler in logger.handlers[:]:
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                logger.removeHandler(handler)


def _check_answers(address: str | None) -> None:
    """Raise LbaeError if nothing listens at the cluster's address, UserError if it is an HTTP address.

    Ray itself would retry for minutes.
    """
    asked = address if address not in (None, "auto") else os.environ.get("RAY_ADDRESS")  # as ray.init chooses
    place = asked or address_of_last_start() or ""
    if place.startswith(("http://", "https://")):
        raise UserError(
            f"{place} is the address of Ray's dashboard, which `ray job submit` takes; give the cluster's"
            f" address, HOST:6379, as --address or RAY_ADDRESS, or unset RAY_ADDRESS"
        )
    host, _, port = place.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:  # no cluster to join, or not HOST:PORT
        return
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER_S).close()
    except OSError as error:
        raise LbaeError(
            f"no Ray cluster answers at {place} ({error}); the address comes from --address, RAY_ADDRESS or"
            " the last `ray start`: restart that cluster, give another address, or start a local Ray with"
            " --address local (`ray stop` forgets the last `ray start`)"
        ) from error


def _check_shared_memory(free: int | None) -> None:
    """Raise LbaeError if the local Ray just started lacked room in /dev/shm and silently uses /tmp."""
    if (
        free is not None
        and free < machine_facts.STORE_BYTES
        and not os.environ.get("RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE")
    ):
        ray.shutdown()
        raise LbaeError(
            f"/dev/shm has {free / 2**20:,.0f} MiB free; a local Ray needs"
            f" {machine_facts.STORE_BYTES / 2**20:,.0f} MiB there: start the container with"
            " `--shm-size=3g`, delete files in /dev/shm, or set"
            " RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE=1 to use files in /tmp"
        )
