"""Memorization: how near samples come to training latents, and some samples' nearest training images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lbae.config import ModelConfig
from lbae.core.prior.memorization import QUERIES, distance_facts
from lbae.distributed.cluster.torch_env import TORCH_RUNTIME_ENV
from lbae.distributed.latent_table.neighbours import Hit, nearest_in
from lbae.errors import UserError
from lbae.io.artifacts.latent_tables import LatentTables
from lbae.io.sources.decode import decode_keys
from lbae.io.sources.source import Source
from lbae.report.evaluation.findings import BESIDE, NEAREST
from lbae.report.evaluation.inputs import EvaluationInputs
from lbae.report.evaluation.settings import MIXTURE, PRIORS
from lbae.report.evaluation.streams import RECONSTRUCTIONS, TEST, Stream
from lbae.report.features.feature_sums import drawn_rows

_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class Memorization:
    """Distances to the nearest training latent by name of the images, images to show, what is left out."""

    nearest: dict[str, dict[str, Any]] = field(default_factory=dict)
    neighbours: np.ndarray | None = None
    left_out: dict[str, str] = field(default_factory=dict)


def find_memorization(inputs: EvaluationInputs, streams: Mapping[str, Stream]) -> Memorization:
    """Distances of samples and, for comparison, of test latents; empty without a training latent table."""
    if inputs.latents is None:
        return Memorization()
    tested = streams[RECONSTRUCTIONS].latents
    queries = {TEST: tested[drawn_rows(len(tested), QUERIES)]}
    queries |= {name: streams[name].latents[:QUERIES] for name in PRIORS if name in streams}
    every = np.concatenate(list(queries.values()))
    found = nearest_in(inputs.latents, every, NEAREST, TORCH_RUNTIME_ENV)  # in the processes that are there
    starts = dict(zip(queries, np.cumsum([0, *map(len, queries.values())]), strict=False))
    nearest = {
        name: distance_facts(found.distances[starts[name] : starts[name] + len(packed), 0])
        for name, packed in queries.items()
    }
    if MIXTURE not in queries or inputs.train is None:
        return Memorization(nearest=nearest)
    samples = streams[MIXTURE].shown[: min(_SHOWN, len(queries[MIXTURE]))]
    hits = [found.hits(int(starts[MIXTURE]) + i) for i in range(min(_SHOWN, len(queries[MIXTURE])))]
    try:
        images = _beside(inputs.bundle.codec.config, inputs.latents, inputs.train, samples, hits)
    except UserError as error:  # an appended table also has images of other sources
        return Memorization(nearest=nearest, left_out={BESIDE: str(error)})
    return Memorization(nearest=nearest, neighbours=images)


def _beside(
    config: ModelConfig,
    table: LatentTables,
    train: Source,
    samples: np.ndarray,
    hits: Sequence[Sequence[Hit]],
) -> np.ndarray:
    """A row of samples, above rows of their nearest training images."""
    keys = [table.row(hit.part, hit.row_group, hit.row)["key"] for some in hits for hit in some]
    images = decode_keys(train, config, keys)
    beside = np.concatenate(
        [samples[: len(hits), None], images.reshape(len(hits), -1, *images.shape[1:])], axis=1
    )
    every: np.ndarray = beside.swapaxes(0, 1).reshape(-1, *images.shape[1:])
    return every
