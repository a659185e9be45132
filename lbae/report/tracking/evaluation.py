"""A tracked evaluation: a copy of its numbers, page and pictures, in one run however often it is repeated."""

from datetime import datetime

import lbae
from lbae.io.artifacts.manifest import read_manifest
from lbae.io.storage.json_file import read_object
from lbae.io.storage.location import resolve
from lbae.report.evaluation.report_json import KIND
from lbae.report.leaves import leaves, numbers
from lbae.report.tracking.background import kept_up_to_date
from lbae.report.tracking.service import Service, Status

MEASURED = (
    "distances",
    "reconstructions",
    "classifier_accuracy",
    "bits",
    "rates",
    "moments_of_samples",
    "nearest",
    "interpolation",
    "edit_distances",
    "overlap",
    "seconds",
)
"""The parts of report.json whose numbers are logged."""


def track_evaluation(service: Service | None, out: str, bundle: str) -> None:
    """Track the finished evaluation at ``out``, which is of the bundle."""
    if service is not None:
        with kept_up_to_date(_EvaluationCopy(service, out, bundle), service.label):
            pass


class _EvaluationCopy:
    """The evaluation's fingerprint is the key of its run and, once all else is there, its last tag."""

    def __init__(self, service: Service, out: str, bundle: str) -> None:
        self._service, self._out = service, resolve(out)
        self._manifest = read_manifest(out)
        self._model = read_manifest(bundle).parents["model"]

    def update(self) -> None:
        """Nothing: the evaluation is finished."""

    def finish(self, status: Status) -> None:
        manifest, out = self._manifest, self._out
        name = "/".join(str(out).split("/")[-2:])
        run = self._service.open_run(manifest.fingerprint, name)
        if f"lbae.{KIND}" not in run.tags:
            run.set_parameters(dict(leaves(manifest.config)))
            report = read_object(out / "report.json")
            measured = {name: report[name] for name in MEASURED}
            run.log_result(numbers(measured), datetime.fromisoformat(manifest.created).timestamp())
            for file in manifest.files:
                run.log_file(file, (out / file).read_bytes())
            inputs = {f"lbae.{role}": fingerprint for role, fingerprint in manifest.parents.items()}
            run.set_tags(
                {
                    "lbae.job": "evaluate",
                    "lbae.version": lbae.__version__,
                    "lbae.out": str(out),
                    "lbae.model": self._model,
                    **inputs,
                    f"lbae.{KIND}": manifest.fingerprint,
                }
            )
        run.finish(status)
