"""Evaluating a bundle on Ray: actors look at blocks of images, then tasks compare what was seen.

No figure depends on how many actors or nodes there are. Workers import the stages' own modules, not this one
and the page's.
"""

import itertools
import time
from typing import Any

from lbae.distributed.evaluate.classifier_training import trained_classifier
from lbae.distributed.evaluate.compare import compare
from lbae.distributed.evaluate.look import hardware, look, looked_at
from lbae.errors import UserError
from lbae.io.sources.decode import check_bad_share
from lbae.io.sources.source import Source
from lbae.report.evaluation import findings as evaluation
from lbae.report.evaluation.findings import ACCURACY, EDITS, Features, Findings, Inputs, Settings
from lbae.report.evaluation.looker import Extractor, Looker
from lbae.report.evaluation.references import Cache, Reference, decoding
from lbae.report.evaluation.streams import BAD, RECONSTRUCTIONS, TEST, TRAIN, Stream
from lbae.report.features.classifier import SETTINGS, Classifier
from lbae.report.features.feature_sums import check_count
from lbae.report.features.inception import load_inception
from lbae.report.features.pixels import load_lpips


def find(
    inputs: Inputs, settings: Settings, cache: Cache, max_bad_fraction: float
) -> tuple[Findings, dict[str, str]]:
    """All findings, and the fingerprints of the networks that looked."""
    clock = [time.monotonic()]
    bundle, left_out = inputs.bundle, evaluation.missing(inputs, settings)
    classifier, networks = _classifier(inputs, cache, left_out)
    extractor = _extractor(settings.features, classifier, networks, left_out)
    sources = {TEST: inputs.test} | (
        {TRAIN: inputs.train} if inputs.train and settings.protocol == "ours" else {}
    )
    rows = {name: sum(shard.rows for shard in looked_at(name, source)) for name, source in sources.items()}
    for name, source in sources.items():
        check_count(rows[name], extractor.num_features, settings.metrics, f"{name} of {source.uri}")
    clock.append(time.monotonic())

    looker = Looker(
        bundle=bundle,
        priors=evaluation.make_priors(settings.priors, bundle, inputs.moments),
        extractor=extractor,
        classifier=classifier,
        lpips=load_lpips(bundle.codec.config),
        rules=settings.protocol,
        samples=inputs.test.rows,
        seed=settings.seed,
    )
    if looker.lpips is None:
        left_out["LPIPS"] = (
            "needs colour images of 32 pixels or more, and AlexNet's weights in torch's cache (TORCH_HOME)"
        )
    clock.append(time.monotonic())

    runs_on = hardware()
    same = {"networks": networks, "rules": settings.protocol, **runs_on}
    made_of = {
        name: decoding(source, bundle.codec.config) | {"role": name, "rows": rows[name], **same}
        for name, source in sources.items()
    }
    streams, references = _look(looker, sources, made_of, cache)
    check_bad_share(
        inputs.test.uri, int(streams[RECONSTRUCTIONS].sums[BAD]), inputs.test.rows, max_bad_fraction
    )
    for name, reference in references.items():
        what = f"{name} of {sources[name].uri} that can be decoded"
        check_count(reference.features.count, extractor.num_features, settings.metrics, what)
    clock.append(time.monotonic())

    found = compare(inputs, settings, classifier, streams, references, left_out)
    found.hardware = runs_on | {"bundle_precision": bundle.codec.precision}
    clock.append(time.monotonic())
    spent = (round(now - before, 1) for before, now in itertools.pairwise(clock))
    found.seconds = dict(zip(("networks", "priors", "look", "compare"), spent, strict=True))
    return found, networks


def _look(
    looker: Looker, sources: dict[str, Source], made_of: dict[str, dict[str, Any]], cache: Cache
) -> tuple[dict[str, Stream], dict[str, Reference]]:
    """What the bundle makes, and the real images, as the cache knows them or as they are seen now."""
    known = {name: cache.reference(facts) for name, facts in made_of.items()}
    streams = look(
        looker, sources[TEST], {name: source for name, source in sources.items() if known[name] is None}
    )
    references = {}
    for name, facts in made_of.items():
        if (reference := known[name]) is None:
            stream = streams.pop(name)
            reference = Reference(features=stream.features, sums=dict(stream.sums))
            cache.keep_reference(facts, reference)
        references[name] = reference
    return streams, references


def _classifier(
    inputs: Inputs, cache: Cache, left_out: dict[str, str]
) -> tuple[Classifier | None, dict[str, str]]:
    """A classifier of the training images' attributes, if they have any, and its fingerprint by name."""
    if inputs.train is None:
        return None, {}
    config = inputs.bundle.codec.config
    made_of = decoding(inputs.train, config) | SETTINGS
    if found := cache.classifier(made_of):
        return found[0], {"classifier": found[1]}
    trained = trained_classifier(inputs.train, config)
    if isinstance(trained, str):
        left_out |= dict.fromkeys(
            [EDITS, ACCURACY], f"needs labels or attributes; {inputs.train.uri} has {trained}"
        )
        return None, {}
    return trained, {"classifier": cache.keep_classifier(made_of, trained)}


def _extractor(
    features: Features, classifier: Classifier | None, networks: dict[str, str], left_out: dict[str, str]
) -> Extractor:
    """The network whose features are compared; Inception's fingerprint joins those of the networks."""
    if features == "inception":
        extractor, networks["inception"] = load_inception()
        return extractor
    if classifier is None:
        raise UserError(f"a classifier's features: {left_out[EDITS]}; or ask for --features inception")
    return classifier
