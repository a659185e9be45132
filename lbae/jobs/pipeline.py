"""Run train, encode, reduce, fit and evaluate from one TOML file."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from lbae.distributed.cluster.session import session
from lbae.errors import OverwriteNeeded
from lbae.io.artifacts.bundle_artifact import check_pointer, move_pointer
from lbae.io.pipeline_file import read_pipeline
from lbae.io.storage.location import absolute
from lbae.io.storage.lock import locked
from lbae.jobs.arguments import Job, from_values
from lbae.jobs.build.encode import encode
from lbae.jobs.build.evaluate import evaluate
from lbae.jobs.build.fit import fit
from lbae.jobs.build.reduce import reduce
from lbae.jobs.build.train import train
from lbae.jobs.decode_once import ingest_first
from lbae.jobs.options import Address, Track
from lbae.report.tracking.service import tracking_service

# Each stage with the option by which later stages take its artifact.
_STAGES: dict[str, tuple[Job, str]] = {
    "train": (train, "model"),
    "encode": (encode, "latents"),
    "reduce": (reduce, "moments"),
    "fit": (fit, "bundle"),
    "evaluate": (evaluate, "evaluation"),
}


def pipeline(
    *, config: str, track: Track = None, overwrite: bool = False, address: Address = None
) -> dict[str, Any]:
    """Run train, encode, reduce, fit and evaluate in order, as a TOML file describes.

    All options are checked before the first stage starts. A second run keeps the finished stages and resumes
    a killed one. Large images that every epoch would decode are first stored at the model's size, as
    `lbae ingest --size` does.

    Args:
        config: TOML file with data, out and a table of options per stage, such as [train].
            [train] is required. The stage evaluate runs only if it has a table.
            With current, a file name, the job writes the URI of the bundle there at the end.
            With decode_once, true or false, images are stored at the model's size first, or never.
        overwrite: Replace artifacts made from other inputs or options; keep all others.
    """
    asked = read_pipeline(config, _STAGES)
    out = asked["out"]
    made = {artifact: f"{out}/{artifact}" for _, artifact in _STAGES.values()}
    places = {**made, "cache": f"{out}/cache", "data": asked["data"], "train_data": asked["data"]}
    places |= {"track": track} if track else {}
    stages = {}
    for name, (stage, artifact) in _STAGES.items():
        if name != "evaluate" or name in asked:
            takes = inspect.signature(stage).parameters
            inputs = {option: place for option, place in places.items() if option in takes}
            stages[name] = from_values(stage, {**inputs, "out": made[artifact], **asked.get(name, {})}, name)
            tracking_service(stages[name].keywords.get("track"))  # refuses a wrong value before any stage
    if "current" in asked:
        check_pointer(asked["current"], absolute(places["bundle"]))
    results: dict[str, Any] = {}
    with locked(f"{out}/pipeline") as check_lock, session(address):
        images = f"{out}/images"
        if first := ingest_first(asked.get("decode_once"), images, stages["train"]):
            stages = {"ingest": first, **_reading(images, first.keywords["source"], stages)}
        for name, call in stages.items():
            check_lock()
            results[name] = _call(call, overwrite)
        if "current" in asked:
            move_pointer(asked["current"], places["bundle"])
    already = {"already": True} if all(result.get("already") for result in results.values()) else {}
    return {"out": absolute(out), "bundle": absolute(places["bundle"]), "stages": results, **already}


def _reading(
    images: str, original: str, stages: dict[str, functools.partial[Any]]
) -> dict[str, functools.partial[Any]]:
    """The stages with the table ``images`` in place of the ``original`` images."""
    return {
        name: functools.partial(
            call.func, **{key: images if value == original else value for key, value in call.keywords.items()}
        )
        for name, call in stages.items()
    }


def _call(stage: Callable[..., Any], overwrite: bool) -> Any:
    """Run a stage; with ``overwrite``, replace its output only if that holds another artifact."""
    try:
        return stage()
    except OverwriteNeeded:
        if not overwrite:
            raise
        return stage(overwrite=True)
