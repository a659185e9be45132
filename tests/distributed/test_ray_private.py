"""The private APIs of Ray that the package uses exist in the installed Ray; each failure says what breaks."""

import inspect
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import ray
import ray.train
import ray.train.torch
from ray import serve
from ray.serve import _private as serve_private
from ray.serve._private import controller, proxy, replica
from ray.serve._private import haproxy as serve_haproxy

from lbae.distributed.cluster import ray_private
from lbae.distributed.serve import private_haproxy
from tests.conftest import ROOT

CONSTANTS = Path(serve_private.__file__).with_name("constants.py").read_text()
HAPROXY = Path(serve_private.__file__).with_name("haproxy.py").read_text()
VARIABLES = {
    name: value
    for name, value in vars(ray_private).items()
    if isinstance(value, str) and value.startswith("RAY_SERVE_")
}


def test_ray_private_names_the_installed_version():
    assert (
        re.search(r"read in Ray (\d+\.\d+)", ray_private.__doc__)[1] == ray.__version__.rpartition(".")[0]
    ), "check lbae/distributed/cluster/ray_private.py against this Ray, then update the version there"


def test_the_address_of_the_last_start_can_be_read():
    parameters = inspect.signature(ray._private.services.find_bootstrap_address).parameters
    assert list(parameters) == ["temp_dir"], "connect() reads the address of the last `ray start` with it"
    assert ray_private.address_of_last_start() is None or ":" in ray_private.address_of_last_start()


@pytest.mark.parametrize("variable", VARIABLES.values(), ids=VARIABLES)
def test_serve_reads_the_environment_variable(variable):
    assert f'"{variable}"' in CONSTANTS, f"Ray Serve reads no {variable} any more; serve.py sets it"


def test_haproxy_is_started_with_its_configuration_as_an_argument():
    """A start recognises by it the HAProxy processes that a killed service left behind."""
    assert '[haproxy_bin, "-db", "-f", self.config_file_path]' in HAPROXY


def test_the_controller_sends_its_own_class_of_haproxy_to_all_nodes(monkeypatch):
    """The actors' class is pickled by value, so it refers to what replaced HAProxyApi in the controller."""
    monkeypatch.setattr(serve_haproxy, "HAProxyApi", serve_haproxy.HAProxyApi)
    private_haproxy.use_private_haproxy()
    sent = ray.cloudpickle.dumps(serve_haproxy.HAProxyManager.__ray_metadata__.modified_class)
    code = "import sys, pickle; actor = pickle.load(sys.stdin.buffer).__mro__[1]"
    code += "; print(actor.__init__.__globals__['HAProxyApi'])"
    loaded = subprocess.run(
        [sys.executable, "-c", code], input=sent, stdout=subprocess.PIPE, check=True, cwd=ROOT
    )
    assert b"lbae.distributed.serve.private_haproxy.PrivateHAProxy" in loaded.stdout, (
        "other nodes would start HAProxy with open ports and a control socket for everyone"
    )


def test_callbacks_are_called_before_what_they_change():
    starts = inspect.getsource(controller)
    called = starts.index("call_function_from_import_path(RAY_SERVE_CONTROLLER_CALLBACK_IMPORT_PATH)")
    assert called < starts.index("HAProxyManager if self._ha_proxy_enabled else ProxyActor")
    for module in (proxy, replica):
        assert "configure_http_middlewares(" in inspect.getsource(module), "headers would have no time limit"


def test_requests_and_idle_connections_outlive_a_reload_of_haproxy():
    template = Path(serve_private.__file__).with_name("haproxy_templates.py").read_text()
    for line in (
        "hard-stop-after {{ config.hard_stop_after_s }}s",
        "close-spread-time {{ config.close_spread_time_s }}s",
        "\n    balance {{ config.balance_algorithm }}\nfrontend",  # the last line of the defaults section
        "observe layer4 error-limit",  # takes replicas of a drained node out of use
        "retry-on {{ config.retry_on }}",  # our setting, which excludes refusals of a full replica
        "retries {{ config.retries }}",
    ):
        assert line in template, "starting and stopping replicas may break requests: run autoscaling_soak.py"
    assert '"RAY_SERVE_HAPROXY_OBSERVE_MARK_DOWN_ENABLED", "1"' in CONSTANTS


def test_haproxy_accepts_the_option_that_closes_connections(tmp_path):
    config = tmp_path / "haproxy.cfg"
    timeouts = "timeout connect 5s\n    timeout client 5s\n    timeout server 5s"
    defaults = f"defaults\n    mode http\n    {timeouts}\n    balance {ray_private.BALANCE_AND_CLOSE}\n"
    config.write_text(f"{defaults}frontend f\n    bind 127.0.0.1:8000\n")
    subprocess.run(
        [serve_haproxy.get_haproxy_binary(), "-c", "-f", str(config)], check=True, capture_output=True
    )


def test_serve_deploys_without_waiting():
    parameters = inspect.signature(serve._run).parameters
    assert {"name", "route_prefix", "_blocking"} <= set(parameters), "deploy() must not wait forever"


def test_the_controller_of_serve_tells_its_address():
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
    from ray.serve._private.controller import ServeController
    from ray.serve.config import HTTPOptions

    assert callable(ServeController.get_http_config), "serve_address() asks the controller for it"
    assert {"host", "port"} <= set(HTTPOptions.model_fields)
    assert (SERVE_CONTROLLER_NAME, SERVE_NAMESPACE) == ("SERVE_CONTROLLER_ACTOR", "serve")


def test_the_sigint_handler_that_is_replaced_exists():
    trainer = ray.train.torch.TorchTrainer
    assert list(inspect.signature(trainer._register_sigint_handler).parameters) == ["self", "controller"]
    replaced = ray_private.without_sigint_handler(trainer)
    assert issubclass(replaced, trainer)
    module = inspect.getmodule(trainer._register_sigint_handler)
    assert "self._register_sigint_handler(" in inspect.getsource(module), (
        "Ctrl-C would end a job without a message"
    )


def test_the_controller_of_ray_train_calls_back_once_per_failure():
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
    from ray.train.v2._internal.execution.controller.controller import TrainController
    from ray.train.v2._internal.execution.controller.state import (
        ReschedulingState,
        RestartingState,
        RunningState,
        SchedulingState,
    )
    from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision

    calls = []

    class Callback(ray_private.controller_callback()):
        def on_restart(self, error, started):
            calls.append((error, started))

    for state in (RestartingState, ReschedulingState):
        Callback().after_controller_state_update(RunningState(), state(training_failed_error="lost"))
    Callback().after_controller_state_update(SchedulingState(None), RunningState())
    assert calls == [("lost", True), ("lost", False)]
    retry = inspect.getsource(TrainController._get_retry_state)
    assert "RestartingState(" in retry, "losses of workers would not be counted"
    assert "ReschedulingState(" in retry, "failed starts would not be counted"
    policy = DefaultFailurePolicy(ray.train.FailureConfig(max_failures=-1, controller_failure_limit=-1))
    start = ray.train.ControllerError(WorkerGroupStartupTimeoutError(2))
    assert policy.make_decision(start) == FailureDecision.RETRY
    ended = policy.make_decision(ray.train.ControllerError(RuntimeError("of a callback")))
    assert ended == FailureDecision.RAISE, "a run whose workers fail again and again would never end"


def test_checkpoints_inside_an_epoch_are_ranked_last_and_survive_a_new_driver():
    """Without a loss they would be the best; an infinite one becomes null in Ray Train's file."""
    from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import _TrainingResultState

    from lbae.distributed.train.worker import _NO_LOSS

    state = _TrainingResultState(checkpoint_dir_name="c", metrics={"loss": _NO_LOSS})
    assert json.loads(state.model_dump_json())["metrics"]["loss"] == _NO_LOSS
    infinite = _TrainingResultState(checkpoint_dir_name="c", metrics={"loss": float("inf")})
    assert json.loads(infinite.model_dump_json())["metrics"]["loss"] is None


def test_actors_of_ray_data_get_their_arguments_by_value():
    from ray.data._internal.execution.operators import actor_pool_map_operator
    from ray.data._internal.execution.operators.map_operator import MapOperator

    starts = inspect.getsource(actor_pool_map_operator.ActorPoolMapOperator._start_actor)
    assert "ctx=self._data_context_ref" in starts
    assert "map_transformer=self._map_transformer_ref" in starts
    put = inspect.getsource(MapOperator._data_context_ref.func) + inspect.getsource(
        MapOperator._map_transformer_ref.func
    )
    assert "ray.put(self.data_context)" in put
    assert "ray.put(self._map_transformer)" in put
    assert pickle.loads(pickle.dumps(ray_private._ByValue({"a": 1}))) == {"a": 1}
