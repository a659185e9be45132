"""Train, encode, reduce, fit and evaluate as one file says, and let services take up the bundle."""

import inspect
from typing import Any

from lbae.cli import Job, call
from lbae.distributed.cluster.session import session
from lbae.io.artifacts.bundle_artifact import move_pointer
from lbae.io.pipeline_file import read_pipeline
from lbae.io.storage.location import absolute
from lbae.io.storage.lock import locked
from lbae.jobs.build.encode import encode
from lbae.jobs.build.evaluate import evaluate
from lbae.jobs.build.fit import fit
from lbae.jobs.build.reduce import reduce
from lbae.jobs.build.train import train

# With the name under which later stages ask for what this one makes.
_STAGES: dict[str, tuple[Job, str]] = {
    "train": (train, "model"),
    "encode": (encode, "latents"),
    "reduce": (reduce, "moments"),
    "fit": (fit, "bundle"),
    "evaluate": (evaluate, "evaluation"),
}


def pipeline(*, config: str, overwrite: bool = False, address: str | None = None) -> dict[str, Any]:
    """Run every stage in order; finished stages of the same make are kept, and what was killed goes on.

    Args:
        config: TOML file with ``data``, ``out``, a table of options for each stage that needs some (evaluate
            runs if it has one), and perhaps ``current``, a file that is to name the bundle.
        overwrite: replace artifacts of another make, and no others.
        address: Ray cluster to join; found or started when not given.
    """
    asked = read_pipeline(config, _STAGES)
    out = asked["out"]
    made = {artifact: f"{out}/{artifact}" for _, artifact in _STAGES.values()}
    places = {**made, "cache": f"{out}/cache", "data": asked["data"], "train_data": asked["data"]}
    results: dict[str, Any] = {}
    with locked(f"{out}/pipeline") as still_held, session(address):
        for name, (stage, artifact) in _STAGES.items():
            if name == "evaluate" and name not in asked:
                continue
            still_held()
            given = {
                option: places[option] for option in inspect.signature(stage).parameters if option in places
            }
            given |= {"out": made[artifact], **asked.get(name, {})}
            results[name] = call(stage, given, overwrite)
        if "current" in asked:
            move_pointer(asked["current"], places["bundle"])
    already = {"already": True} if all(result.get("already") for result in results.values()) else {}
    return {"out": absolute(out), "bundle": absolute(places["bundle"]), "stages": results, **already}
