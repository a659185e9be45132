"""Runs at an MLflow tracking server, or in a database that MLflow knows."""

import io
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

from lbae.errors import UserError, as_lbae_error
from lbae.report.tracking.service import Status

_logger = logging.getLogger(__name__)

_EXPERIMENT = "lbae"
_KEY, _EPOCH = "lbae.run", "epoch"
_FILES = ("sqlite", "file")  # schemes of URIs without a host, and so without a password
# Variables of MLflow. MLflow itself retries no request: it cannot know whether a failed "create run" made a
# run. This package retries after a search for the run.
_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


class MlflowService:
    """MLflow at a tracking URI. The experiment is ``lbae``, or that of MLflow's environment variables.

    Raises:
        UserError: The URI holds a password or lacks a host, or MLflow does not accept it or is not installed.
    """

    def __init__(self, uri: str) -> None:
        _check(uri)
        for name, value in _DEFAULTS.items():
            os.environ.setdefault(name, value)
        try:
            from mlflow import MlflowClient
        except ImportError as error:
            raise UserError(
                f"--track mlflow:URI needs MLflow ({error}): pip install 'lbae[mlflow]'"
            ) from error
        try:
            self._client = MlflowClient(tracking_uri=uri)
        except Exception as error:
            raise UserError(
                f"MLflow does not accept the URI {uri!r} ({as_lbae_error(error)}); allowed: the address of a"
                " tracking server, or with all of MLflow (pip install mlflow) a database, sqlite:///FILE"
            ) from error
        self.label, self._uri = f"mlflow:{uri}", uri

    def open_run(self, key: str, name: str) -> "_MlflowRun":
        """Continue the run whose tag ``lbae.run`` is the key, or else begin one."""
        client, experiment = self._client, self._experiment()
        found = client.search_runs(
            [experiment], f"tags.`{_KEY}` = '{key}'", max_results=1, order_by=["attributes.start_time ASC"]
        )
        run = found[0] if found else client.create_run(experiment, run_name=name, tags={_KEY: key})
        page = f"{self._uri}/#/experiments/{experiment}/runs/" if self._uri.startswith("http") else ""
        _logger.info(f"tracked by MLflow as {page}{run.info.run_id}")
        return _MlflowRun(client, run, running=not found)

    def _experiment(self) -> str:
        if given := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return given
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _EXPERIMENT
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id if found else self._client.create_experiment(name))


class _MlflowRun:
    """A run that is marked as running from the first write on, so a look at it does not change its times."""

    def __init__(self, client: Any, run: Any, *, running: bool) -> None:
        self._client, self._id, self._running = client, run.info.run_id, running
        self.last_epoch = int(run.data.metrics.get(_EPOCH, 0))
        self.tags: Mapping[str, str] = run.data.tags

    def set_parameters(self, values: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        parameters = [Param(_allowed(name), str(value)) for name, value in values.items()]
        self._write(params=parameters)

    def log_epoch(self, epoch: int, values: Mapping[str, float], time: float) -> None:
        self._log({**values, _EPOCH: epoch}, time, epoch)

    def log_picture(self, epoch: int, name: str, png: bytes) -> None:
        with Image.open(io.BytesIO(png)) as picture:
            self._client.log_image(self._id, picture, key=name, step=epoch)

    def log_result(self, values: Mapping[str, float], time: float) -> None:
        self._log(values, time, 0)

    def _log(self, values: Mapping[str, float], time: float, step: int) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(_allowed(name), value, int(1000 * time), step) for name, value in values.items()]
        self._write(metrics=metrics)

    def log_file(self, name: str, content: bytes) -> None:
        with TemporaryDirectory() as folder:
            file = Path(folder, name)
            file.write_bytes(content)
            self._client.log_artifact(self._id, str(file))

    def set_tags(self, values: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self._write(tags=[RunTag(name, value) for name, value in values.items()])

    def _write(self, **batch: Any) -> None:
        if not self._running:
            self._client.update_run(self._id, status="RUNNING")
            self._running = True
        self._client.log_batch(self._id, **batch)

    def finish(self, status: Status) -> None:
        if self._running:
            self._client.set_terminated(self._id, status)


def _check(uri: str) -> None:
    scheme, _, rest = uri.partition("://")
    if scheme not in _FILES and "@" in rest:
        raise UserError(
            "the URI of --track mlflow:URI holds a user or a password, which others could read on the command"
            " line and in logs; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead"
        )
    if scheme.startswith("http") and not urlsplit(uri).hostname:
        raise UserError(f"track is 'mlflow:{uri}', which names no host; allowed: mlflow:http://HOST:PORT")


def _allowed(name: str) -> str:
    """The name with underscores for characters that MLflow does not allow."""
    return re.sub(r"[^/\w.\- :]", "_", name)
