"""Runs at Weights & Biases, online or offline as its environment variables say."""

import io
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from lbae.errors import UserError
from lbae.report.tracking.service import Status

_logger = logging.getLogger(__name__)

# A job waits 30 s for tracking at its end, which are two tries to begin or one to finish.
_INIT_S, _FINISH_S = 10.0, 20.0
_EPOCH = "epoch"


class WandbService:
    """Weights & Biases with a project.

    Raises:
        UserError: The package is not installed, or has no API key although it is to work online.
    """

    def __init__(self, project: str) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")  # a job shows its own lines
        try:
            import wandb
        except ImportError as error:
            raise UserError(
                f"--track wandb:PROJECT needs wandb ({error}): pip install 'lbae[wandb]'"
            ) from error
        online = wandb.setup().settings.mode not in ("offline", "disabled")
        if online and not wandb.login(prompt=False, verify=False):
            raise UserError(
                "wandb has no API key: run `wandb login`, or set WANDB_API_KEY; or set WANDB_MODE=offline"
            )
        self.label, self._project = f"wandb:{project}", project

    def open_run(self, key: str, name: str) -> "_WandbRun":
        """Continue the run whose ID is the key, or else begin one."""
        import wandb

        try:
            run = wandb.init(
                project=self._project,
                id=key,
                name=name,
                resume="allow",
                settings=wandb.Settings(console="off", init_timeout=_INIT_S, finish_timeout=_FINISH_S),
            )
        except Exception:
            wandb.teardown()  # otherwise the next try fails, because "the run ID is in use"
            raise
        _logger.info(f"tracked by wandb as {run.dir if run.offline else run.url}")
        return _WandbRun(run)


class _WandbRun:
    def __init__(self, run: Any) -> None:
        self._run = run
        self.last_epoch = int(run.summary.get(_EPOCH) or 0)
        self.tags: Mapping[str, str] = dict(run.config)

    def set_parameters(self, values: Mapping[str, Any]) -> None:
        self._run.config.update(dict(values), allow_val_change=True)

    def log_epoch(self, epoch: int, values: Mapping[str, float], time: float) -> None:
        self._run.log({**values, _EPOCH: epoch}, step=epoch)

    def log_picture(self, epoch: int, name: str, png: bytes) -> None:
        self._run.log({name: _picture(png)}, step=epoch)

    def log_result(self, values: Mapping[str, float], time: float) -> None:
        self._run.summary.update(dict(values))

    def log_file(self, name: str, content: bytes) -> None:
        import wandb

        path = Path(name)
        if path.suffix == ".png":
            self._run.log({path.stem: _picture(content)})
        elif path.suffix == ".html":
            self._run.log({path.stem: wandb.Html(content.decode(), inject=False)})
        else:
            file = Path(self._run.dir, name)
            file.write_bytes(content)
            self._run.save(str(file), base_path=self._run.dir, policy="now")

    def set_tags(self, values: Mapping[str, str]) -> None:
        self.set_parameters(values)

    def finish(self, status: Status) -> None:
        self._run.finish(exit_code=0 if status == "FINISHED" else 1)


def _picture(png: bytes) -> Any:
    import wandb

    with Image.open(io.BytesIO(png)) as picture:
        return wandb.Image(picture.copy())
