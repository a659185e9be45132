"""The private APIs of Ray that this package uses, as read in Ray 2.60.

Only one other module uses any: :mod:`lbae.distributed.serve.private_haproxy` (``tests/test_layers.py``).
``tests/distributed/test_ray_private.py`` checks each against the installed Ray and says what breaks.
Functions import Ray Serve and Ray Train themselves, because most jobs need neither.
"""

import functools
import os
from pathlib import Path
from typing import Any, TypeVar

import ray
import ray.cloudpickle

Trainer = TypeVar("Trainer")

# Environment variables that Ray Serve's actors read (`ray.serve._private.constants`). Callbacks are import
# paths of functions: the controller calls one when it starts, processes call one before their HTTP server.
CONTROLLER_CALLBACK = "RAY_SERVE_CONTROLLER_CALLBACK_IMPORT_PATH"
HTTP_SERVER_CALLBACK = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
HAPROXY_ENABLE = "RAY_SERVE_ENABLE_HA_PROXY"
HAPROXY_TIMEOUT_CLIENT_S = "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S"
HAPROXY_TIMEOUT_SERVER_S = "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S"
HAPROXY_HARD_STOP_AFTER_S = "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"
HAPROXY_CLOSE_SPREAD_TIME_S = "RAY_SERVE_HAPROXY_CLOSE_SPREAD_TIME_S"
HAPROXY_RETRY_ON = "RAY_SERVE_HAPROXY_RETRY_ON"
HAPROXY_RETRIES = "RAY_SERVE_HAPROXY_RETRIES"
HAPROXY_BALANCE = "RAY_SERVE_HAPROXY_BALANCE_ALGORITHM"
INGRESS_DRAINING_S = "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"


# Ray copies this value unchanged into the ``defaults`` section of HAProxy's configuration. It has no variable
# for other options, so the value's second line adds one.
BALANCE_AND_CLOSE = "leastconn\n    option httpclose"


def address_of_last_start() -> str | None:
    """The address recorded by this machine's last ``ray start``, which ``ray.init`` would join."""
    from ray._private.services import find_bootstrap_address

    address: str | None = find_bootstrap_address(None)
    return address


def object_store_folder() -> str:
    """The folder of the object store of the node on which this task runs.

    Ray's `raylet`, which starts the processes of tasks, has it as an argument.
    """
    arguments = Path(f"/proc/{os.getppid()}/cmdline").read_text().split("\0")
    flag = "--plasma_directory="
    return next(text.removeprefix(flag) for text in arguments if text.startswith(flag))


def serve_address() -> tuple[str, int] | None:
    """Host and port of Ray Serve on the connected cluster; None if it does not run.

    Asks the controller by name, because Serve's client in this process may belong to a Serve that has ended.
    """
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    try:
        controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    except ValueError:
        return None
    found = ray.get(controller.get_http_config.remote())
    return found.host, found.port


def deploy(application: Any, name: str) -> None:
    """Deploy an application at ``/`` without waiting; ``serve.run`` would wait without a limit."""
    from ray import serve

    serve._run(application, name=name, route_prefix="/", _blocking=False)


def without_sigint_handler(trainer: type[Trainer]) -> type[Trainer]:
    """A trainer class that leaves SIGINT alone.

    Ray Train's handler ends the process with exit code 1 and no message. Without it, the job reports that it
    was interrupted.
    """
    return type(trainer.__name__, (trainer,), {"_register_sigint_handler": lambda self, controller: None})


def controller_callback() -> type[Any]:
    """The base class of a callback that Ray Train's controller calls after checkpoints and before restarts.

    A subclass has the methods ``on_checkpoint()`` and ``on_restart(error, started)``. ``started`` says
    whether the workers had started, or their start failed. An exception of either method ends the run. Ray's
    public ``UserCallback`` hears of no failed start, and several times of one failure.
    """
    from ray.train.v2._internal.execution.callback import ControllerCallback, ReportCallback
    from ray.train.v2._internal.execution.controller.state import ReschedulingState, RestartingState

    class Callback(ControllerCallback, ReportCallback):  # type: ignore[misc]
        def after_report(self, training_report: Any, metrics: list[dict[str, Any]]) -> None:
            if training_report.checkpoint is not None:
                self.on_checkpoint()

        def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
            if isinstance(current_state, RestartingState | ReschedulingState):
                started = isinstance(current_state, RestartingState)
                self.on_restart(current_state.training_failed_error, started)

    return Callback


class _ByValue:
    """Unpickles as ``value``, which is pickled in advance so that Ray's core sees no references inside it."""

    def __init__(self, value: Any) -> None:
        self._pickled = ray.cloudpickle.dumps(value)

    def __reduce__(self) -> tuple[Any, tuple[bytes]]:
        return ray.cloudpickle.loads, (self._pickled,)


def pass_arguments_by_value() -> None:
    """Make this process pass arguments to Ray Data's actors by value; idempotent.

    Ray Data passes references. For every pool of actors that may restart, Ray's core then prints an error
    ("has constructor arguments in the object store and max_restarts > 0"). An actor also could not restart
    once the node that holds its arguments is lost.
    """
    from ray.data._internal.execution.operators.actor_pool_map_operator import ActorPoolMapOperator

    for reference, name in (
        ("_data_context_ref", "data_context"),
        ("_map_transformer_ref", "_map_transformer"),
    ):
        argument = functools.cached_property(functools.partial(_argument, name))
        argument.__set_name__(ActorPoolMapOperator, reference)
        setattr(ActorPoolMapOperator, reference, argument)


def _argument(name: str, operator: Any) -> _ByValue:
    return _ByValue(getattr(operator, name))
