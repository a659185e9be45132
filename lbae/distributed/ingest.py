"""Any image source to an image table with Ray Data: one row is one part file of about 256 MB."""

import time
from typing import Any

from lbae.distributed.probe import reached
from lbae.distributed.session import session
from lbae.distributed.tasks import answered, outcomes, over
from lbae.io import artifact, image_table
from lbae.io import ingest as parts_io
from lbae.io import source as image_source
from lbae.io.decode import check_bad_share
from lbae.io.lock import locked
from lbae.io.storage import absolute
from lbae.report.progress import ProgressLine


def ingest(
    *,
    source: str,
    out: str,
    kind: image_source.Kind | None = None,
    max_bad_fraction: float = 0.01,
    overwrite: bool = False,
    address: str | None = None,
) -> dict[str, Any]:
    """Write any source of images as an image table: Parquet files of about 256 MB. A killed job, run again, continues.

    Args:
        source: folder of images, WebDataset tars, image table, or torchvision:mnist, cifar10, celeba.
        out: URI of the image table.
        kind: table, tars or files: what ``source`` is, when its files' names (.parquet, .tar) do not say so.
        max_bad_fraction: share of undecodable images above which the job fails, after writing what it has.
        overwrite: replace another artifact at ``out``.
        address: Ray cluster to join; found or started when not given.
    """
    images = image_source.plan(source, kind)
    parents = {"source": images.fingerprint}
    with locked(out) as still_held:
        done = artifact.begin(out, image_table.KIND, parents, {}, overwrite, work=parts_io.CUT)
        if done:
            check_bad_share(source, done["bad"], images.rows, max_bad_fraction)
            return done
        started, place = time.monotonic(), absolute(out)
        plans = parts_io.plan_parts(images.shards)

        def write(row: dict[str, Any]) -> dict[str, Any]:
            return answered(row, lambda plan: parts_io.ingest_part(place, *plan))

        parts = []
        with session(address), ProgressLine("ingest", images.rows, "images") as line:
            reached([images.uri], [out])
            for part in outcomes(over(plans, write, num_cpus=1)):
                parts.append(part)
                line.update(line.done + part.rows + part.bad)
                still_held()
        still_held()
        bad = sum(part.bad for part in parts)
        facts = {"bad": bad, "seconds": round(time.monotonic() - started, 1)}
        result = image_table.publish_parts(out, parts, parents=parents, config={}, result=facts)
    check_bad_share(source, bad, images.rows, max_bad_fraction)
    return result
