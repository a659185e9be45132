"""What a tracking service offers to a job, and the choice of one by the option ``--track``."""

from collections.abc import Mapping
from typing import Any, Literal, Protocol

from lbae.errors import UserError

Status = Literal["FINISHED", "FAILED", "KILLED"]


class Run(Protocol):
    """One run at a tracking service.

    ``last_epoch`` is the last epoch that the service holds (0: none) and ``tags`` are the run's tags, both as
    they were when the run was opened. Methods raise what the service's library raises, and may be called
    again with the same values. Times are seconds since 1970; pictures are PNG.
    """

    last_epoch: int
    tags: Mapping[str, str]

    def set_parameters(self, values: Mapping[str, Any]) -> None:
        """Set parameters, which never change during a run."""

    def log_epoch(self, epoch: int, values: Mapping[str, float], time: float) -> None:
        """Add the numbers of an epoch; ``last_epoch`` of a run opened later is this one."""

    def log_picture(self, epoch: int, name: str, png: bytes) -> None:
        """Add a picture of an epoch. Call this before :meth:`log_epoch`."""

    def log_result(self, values: Mapping[str, float], time: float) -> None:
        """Set numbers that belong to no epoch."""

    def log_file(self, name: str, content: bytes) -> None:
        """Add a file."""

    def set_tags(self, values: Mapping[str, str]) -> None:
        """Set tags."""

    def finish(self, status: Status) -> None:
        """End the run, unless nothing was added to it; a job that opens it again continues it."""


class Service(Protocol):
    """A tracking service; ``label`` names it in messages."""

    label: str

    def open_run(self, key: str, name: str) -> Run:
        """Continue the run with this key, or else begin one and call it ``name``."""


def tracking_service(track: str | None) -> Service | None:
    """The service that the option ``--track`` names; None without the option.

    Raises:
        UserError: The service is unknown, its package is not installed, or it does not accept the value.
    """
    if track is None:
        return None
    service, _, place = track.partition(":")
    if service not in ("mlflow", "wandb"):
        # Not the whole value, which may be an address with a password.
        raise UserError(f"track names the service {service!r:.40}; allowed: mlflow:URI, wandb:PROJECT")
    if not place.strip():
        raise UserError(f"track is {track!r}; allowed: mlflow:URI, wandb:PROJECT")
    if service == "mlflow":
        from lbae.report.tracking.mlflow_service import MlflowService

        return MlflowService(place)
    from lbae.report.tracking.wandb_service import WandbService

    return WandbService(place)
