"""Options that several jobs have, with their help, and what became of options that there were once."""

from typing import Annotated

import tyro

from lbae.io.sources.plan import Kind

Names = tuple[str, ...]
"""An option that is given once per value."""

Address = Annotated[
    str | None,
    tyro.conf.arg(
        help="Ray cluster to join; by default that of RAY_ADDRESS or of this machine's `ray start`, else a"
        " local Ray is started."
    ),
]
Gpus = Annotated[
    int | None,
    tyro.conf.arg(help="GPUs that the cluster must have or get; by default whatever it has is used."),
]
Overwrite = Annotated[
    bool,
    tyro.conf.arg(help="Replace what `out` holds when it was made from other inputs or options."),
]
SourceKind = Annotated[
    Kind | None,
    tyro.conf.arg(
        help="What the image source is: table, tars or files; by default its files' names (.parquet, .tar)"
        " say so."
    ),
]
BadFraction = Annotated[
    float,
    tyro.conf.arg(help="Share of undecodable images above which the job fails."),
]

REMOVED = {("reduce", "by"): "`lbae fit --by COLUMN` makes one component per value of a column"}
"""Options that there are no more, by job: what to do instead."""
