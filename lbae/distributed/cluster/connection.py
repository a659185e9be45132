"""How a job comes to its Ray, and what it says when it does not."""

import errno
import functools
import logging
import os
import signal
import socket
import threading

import ray
from ray._private.services import find_bootstrap_address
from ray.exceptions import AuthenticationError

from lbae.errors import LbaeError, UserError
from lbae.io import machine

_ANSWER_S = 5.0
_UNUSABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.ENOSPC)
_TOKEN = (
    "one that asks for a token wants RAY_AUTH_MODE=token and its own ~/.ray/auth_token on every node and"
    " client"
    " (`ray get-auth-token --generate` makes one for a new cluster)"
)


def connect(address: str | None) -> None:
    """Join the cluster at ``address``, else that of RAY_ADDRESS or of this machine's ``ray start``, else
    start a local Ray.

    LbaeError when nothing answers, or /dev/shm is too small for a local Ray; UserError for a cluster of other
    versions, or when there is no token and RAY_AUTH_MODE asks for one. The process's handler of SIGTERM
    stays.
    """
    for name in ("ray", "ray.data", "ray.serve"):  # progress is shown by the jobs themselves
        logging.getLogger(name).setLevel(logging.ERROR)
    quiet = functools.partial(ray.init, address=address, logging_level=logging.ERROR, log_to_driver=False)
    place = address or "the address of RAY_ADDRESS or of the last `ray start` (`ray stop` forgets it)"
    _check_answers(address)
    free, handler = machine.shared_memory_bytes(), signal.getsignal(signal.SIGTERM)
    try:
        try:
            quiet(object_store_memory=machine.STORE_BYTES)
            _check_shared_memory(free)
        except (
            ValueError
        ):  # not for a cluster that stands; "auto" would also join the local Ray of another job
            quiet()
    except ConnectionError as error:  # also when the cluster refuses the token, of which Ray only logs
        raise LbaeError(
            f"no Ray cluster answers at {place}, or it refuses this machine's token ({error}); {_TOKEN}"
        ) from error
    except OSError as error:
        if error.errno not in _UNUSABLE and "AF_UNIX" not in str(error):
            raise
        folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR", "/tmp")
        raise UserError(
            f"Ray cannot keep its files in {folder} ({error}); set RAY_TMPDIR to a folder that can be written"
            f" and has a short path, such as /tmp"
        ) from error
    except AuthenticationError as error:
        raise UserError(f"the Ray cluster at {place} asks for a token ({error.message}); {_TOKEN}") from error
    except RuntimeError as error:
        if "Version mismatch" not in str(error):
            raise
        raise UserError(
            f"the Ray cluster at {place} runs other versions than this job:"
            f" {str(error).partition(': ')[2]}Ray and Python"
            " must be the same on both; use the cluster's, or submit the job to it with `ray job submit`"
        ) from error
    except SystemExit as stop:
        if stop.code == signal.SIGTERM and callable(handler):
            handler(signal.SIGTERM, None)
        raise
    finally:
        # Ray puts a handler of its own there, which exits; a job's says that it was stopped, and hears no
        # more (lbae.cli).
        stopped, main = signal.getsignal(signal.SIGTERM) is signal.SIG_IGN, threading.main_thread()
        if callable(handler) and not stopped and threading.current_thread() is main:
            signal.signal(signal.SIGTERM, handler)


def _check_answers(address: str | None) -> None:
    """LbaeError when nothing listens where Ray will look for a cluster: Ray itself would try again for
    minutes.
    """
    asked = address if address not in (None, "auto") else os.environ.get("RAY_ADDRESS")  # as ray.init chooses
    place = asked or find_bootstrap_address(None) or ""
    host, _, port = place.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:  # to be started, or an address of another kind
        return
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER_S).close()
    except OSError as error:
        raise LbaeError(
            f"no Ray cluster answers at {place} ({error}), which comes from --address, RAY_ADDRESS or the"
            f" last `ray start`:"
            " start it again, give another address, or forget it with `ray stop` (or --address local)"
        ) from error


def _check_shared_memory(free: int | None) -> None:
    """LbaeError when a local Ray, started just now, had no room in /dev/shm: it took files in /tmp, and said
    nothing.
    """
    if (
        free is not None
        and free < machine.STORE_BYTES
        and not os.environ.get("RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE")
    ):
        ray.shutdown()
        raise LbaeError(
            f"/dev/shm has {free / 2**20:,.0f} MiB free; a local Ray needs"
            f" {machine.STORE_BYTES / 2**20:,.0f} MiB there:"
            " start the container with `--shm-size=3g`, delete what lies in /dev/shm, or set"
            " RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE=1 to do with files in /tmp"
        )
