"""Check with Ray Data that no key of latent tables occurs twice."""

import pyarrow.compute as pc
import ray.data

from lbae.distributed.cluster.resources import cluster_cpus
from lbae.distributed.cluster.tasks import configure_ray_data
from lbae.errors import UserError
from lbae.io.artifacts.latent_tables import LatentTables
from lbae.io.storage.location import resolve

_KEYS_PER_PARTITION = 2**20


def check_unique_keys(table: LatentTables) -> None:
    """Raise UserError if keys occur more than once; the message names up to five of them."""
    configure_ray_data()
    files = [resolve(part) for part in table.parts]
    partitions = max(2 * cluster_cpus(), table.rows // _KEYS_PER_PARTITION)
    rows = ray.data.read_parquet([file.path for file in files], filesystem=files[0].fs)
    counts = rows.select_columns(["key"]).groupby("key", num_partitions=partitions).count()
    repeated = counts.map_batches(
        lambda rows: rows.filter(pc.greater(rows["count()"], 1)), batch_format="pyarrow", batch_size=None
    )
    if found := [row["key"] for row in repeated.take(5)]:
        raise UserError(
            f"keys of {table} occur more than once: {', '.join(sorted(found))}; encode the table again, or of"
            f" several tables one, with a name for its images (--data NAME=URI)"
        )
