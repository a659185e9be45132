"""A tracked training: a copy of what its storage and its model hold, in one run however often it is resumed.

Nothing is asked of the workers: the event files in the storage are the queue. So a service that did not
answer for some epochs gets them later, and a training that is tracked from its middle on is tracked whole.
"""

import logging
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime

import lbae
from lbae.io.artifacts.checkpoints import BOARD, stored_options, tracking_key
from lbae.io.artifacts.manifest import read_manifest
from lbae.io.artifacts.model_artifact import KIND
from lbae.io.storage.location import resolve
from lbae.report.figures.tensorboard_events import read_epochs
from lbae.report.leaves import leaves, numbers
from lbae.report.tracking.background import kept_up_to_date
from lbae.report.tracking.service import Run, Service, Status

_logger = logging.getLogger(__name__)

_FACTS = ("device", "precision")


def tracked_training(service: Service | None, storage: str, out: str) -> AbstractContextManager[None]:
    """Track the run in a storage during the block, and at its end the model that it published at ``out``."""
    if service is None:
        return nullcontext()
    return kept_up_to_date(_TrainingCopy(service, storage, out), service.label)


def track_finished_training(service: Service | None, storage: str, out: str) -> None:
    """Track a training that ended earlier. Warn if its storage is gone or holds another run."""
    if service is None:
        return
    manifest = read_manifest(out)
    if stored_options(storage) != {"parent": manifest.parents, **manifest.config}:
        _logger.warning(f"{out} is not tracked: {storage} does not hold the run that trained it (any more)")
        return
    with tracked_training(service, storage, out):
        pass


class _TrainingCopy:
    """The last tag of a run is the fingerprint of its model: it marks the run as complete."""

    def __init__(self, service: Service, storage: str, out: str) -> None:
        self._service, self._storage, self._out = service, storage, resolve(out)
        self._run: Run | None = None
        self._last = 0

    def update(self) -> None:
        run = self._run = self._run or self._opened()
        lost: Exception | None = None
        for epoch in read_epochs(f"{self._storage}/{BOARD}", after=self._last):
            for name, png in epoch.pictures.items():
                try:
                    run.log_picture(epoch.number, name, png)
                except Exception as error:  # MLflow's files may lie elsewhere than the numbers
                    lost = error
            run.log_epoch(epoch.number, epoch.numbers, epoch.time)
            self._last = epoch.number
        if lost:
            raise lost

    def finish(self, status: Status) -> None:
        try:
            self.update()
        finally:
            if run := self._run:
                if status == "FINISHED" and not _is_complete(run):
                    self._add_model(run)
                run.finish(status)

    def _opened(self) -> Run:
        run = self._service.open_run(tracking_key(self._storage), "/".join(str(self._out).split("/")[-2:]))
        if not _is_complete(run):
            options = stored_options(self._storage)
            parents = {f"lbae.{role}": fingerprint for role, fingerprint in options.pop("parent").items()}
            run.set_parameters(dict(leaves(options)))
            run.set_tags(
                {
                    "lbae.job": "train",
                    "lbae.version": lbae.__version__,
                    "lbae.out": str(self._out),
                    **parents,
                }
            )
        self._last = run.last_epoch
        return run

    def _add_model(self, run: Run) -> None:
        manifest = read_manifest(str(self._out), KIND)
        result = {name: value for name, value in manifest.result.items() if name != "history"}
        run.log_result(numbers({"result": result}), datetime.fromisoformat(manifest.created).timestamp())
        facts = {f"lbae.{name}": str(result[name]) for name in _FACTS if name in result}
        run.set_tags({**facts, f"lbae.{KIND}": manifest.fingerprint})


def _is_complete(run: Run) -> bool:
    return f"lbae.{KIND}" in run.tags
