"""The HAProxy that Ray Serve starts on every node, with private files and without open statistics.

Ray Serve gives HAProxy a control socket that every user of the machine may write to, in a folder that
everyone may create first. It also opens two ports on all interfaces, for metrics and statistics. It sets no
time limit for the headers of a request, and one of 90 s for idle connections, of which HAProxy takes only
4,096. No variable of Ray changes these.
"""

import re
import shutil
import tempfile
from pathlib import Path

from ray.serve._private import haproxy

from lbae.distributed.serve.bounded_http import HEADER_S
from lbae.errors import LbaeError

IDLE_S = 5  # as uvicorn's default; clients such as httpx close idle connections by then themselves
FOLDERS = "/tmp/haproxy-serve"  # names of our folders and of Ray's begin with it

_CLOSED = {  # what is replaced in Ray's configuration
    r"^frontend prometheus\n(?:[ \t].*\n)*": "",
    r"^listen stats\n(?:[ \t].*\n)*": "",
    r" mode 666 level admin ": " mode 600 level admin ",
}


def use_private_haproxy() -> None:
    """Make this process, the controller of Ray Serve, start :class:`PrivateHAProxy` on all nodes.

    The controller pickles its class of actors by value, so the actors of other nodes also use it.
    """
    haproxy.HAProxyApi = PrivateHAProxy


class PrivateHAProxy(haproxy.HAProxyApi):  # type: ignore[misc]
    """HAProxy on one node. Its files are in a new folder, which ``mkdtemp`` creates with mode 0700."""

    def _initialize_directories_and_error_files(self) -> None:
        # Not tempfile.gettempdir(): the path of a socket is limited to about 100 bytes.
        self._folder = tempfile.mkdtemp(prefix=f"{FOLDERS}-", dir="/tmp")
        self.config_file_path = f"{self._folder}/haproxy.cfg"
        self.cfg.socket_path = f"{self._folder}/admin.sock"
        self.cfg.metrics_socket_path = f"{self._folder}/metrics.sock"
        self.cfg.server_state_base = self._folder
        self.cfg.server_state_file = f"{self._folder}/server-state"
        self.cfg.timeout_http_request_s = HEADER_S
        self.cfg.http_options = self.cfg.http_options.model_copy(update={"keep_alive_timeout_s": IDLE_S})
        super()._initialize_directories_and_error_files()

    def _generate_config_file_internal(self) -> None:
        super()._generate_config_file_internal()
        file = Path(self.config_file_path)
        file.write_text(_closed(file.read_text()))

    async def stop(self) -> None:
        """End HAProxy and remove its folder."""
        await super().stop()
        shutil.rmtree(self._folder, ignore_errors=True)


def _closed(config: str) -> str:
    """HAProxy's configuration without metrics and statistics, and with a control socket for its user only.

    LbaeError if Ray's text is another: it may then open them in another way.
    """
    for pattern, replacement in _CLOSED.items():
        config, found = re.subn(pattern, replacement, config, flags=re.MULTILINE)
        if found != 1:
            raise LbaeError(
                f"Ray's configuration of HAProxy matches {pattern!r} {found} times; expected: once; install"
                " the version of Ray in requirements.lock"
            )
    return config
