"""Options that several jobs share, with their help texts, and options that were removed."""

from collections.abc import Sequence
from typing import Annotated

import tyro

from lbae.io.sources.plan import Kind

Names = tuple[str, ...]
"""A list option: several words after it, or the option repeated."""

OneOrMore = Annotated[str | Sequence[str], tyro.conf.arg(metavar="STR [STR ...]")]
"""A list option with at least one value, which Python callers may give as plain text."""

Words = Annotated[str, tyro.conf.Positional]
"""Any number of words without an option."""

Address = Annotated[
    str | None,
    tyro.conf.arg(
        help="Ray cluster to join; 'local' starts one for this job. If omitted: the address in RAY_ADDRESS,"
        " else the cluster that `ray start` started on this machine, else a local Ray. A small table is"
        " reduced, indexed or searched without Ray, unless an address is given."
    ),
]
Gpus = Annotated[
    int | None,
    tyro.conf.arg(
        help="GPUs that the cluster must have, 1 or more. The job waits for them and fails if they do not"
        " come within 60 s (RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S). If omitted: use the GPUs that are there."
    ),
]
Overwrite = Annotated[
    bool,
    tyro.conf.arg(
        help="Replace the artifact at --out. Without this option, an artifact made from other inputs or"
        " options is an error."
    ),
]
SourceKind = Annotated[
    Kind | None,
    tyro.conf.arg(
        help="Kind of image source: table (Parquet), tars (WebDataset) or files (images). If omitted: decided"
        " by the file names (.parquet, .tar, else files)."
    ),
]
BadFraction = Annotated[
    float,
    tyro.conf.arg(help="Largest allowed share of undecodable images, 0 to 1. Above it, the job fails."),
]
Track = Annotated[
    str | None,
    tyro.conf.arg(
        help="Also log to an experiment tracker: mlflow:URI, of a tracking server (http://HOST:PORT) or a"
        " database (sqlite:///FILE), or wandb:PROJECT. Results and fingerprints do not depend on it."
    ),
]

REMOVED = {("reduce", "by"): "`lbae fit --by COLUMN` makes one component per value of a column"}
"""Removed options, by job and name, and what to use instead."""
