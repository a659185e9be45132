"""Evaluating a bundle on Ray: actors look at blocks of images, then tasks compare what was seen.

No figure depends on how many actors or nodes there are. Workers import the stages' own modules, not this one and the page's.
"""

import time
from dataclasses import asdict
from typing import Any

from lbae.config import ModelConfig
from lbae.distributed.classifier import trained_classifier
from lbae.distributed.compare import compare
from lbae.distributed.look import look
from lbae.distributed.probe import reached
from lbae.distributed.session import session
from lbae.errors import UserError
from lbae.io import artifact
from lbae.io.decode import check_bad_share
from lbae.io.source import Source
from lbae.io.storage import cache_folder, resolve
from lbae.report import evaluation, evaluation_page
from lbae.report.classifier import Classifier
from lbae.report.evaluation import PRIORS, Features, Findings, Inputs, Settings
from lbae.report.features import check_count, chosen_metrics
from lbae.report.looks import Extractor, Looker
from lbae.report.pixels import load_lpips
from lbae.report.references import Cache, Reference
from lbae.report.streams import RECONSTRUCTIONS, TEST, TRAIN, Rules


def evaluate(
    *,
    bundle: str,
    data: str,
    out: str,
    train_data: str | None = None,
    latents: str | None = None,
    moments: str | None = None,
    priors: str = ",".join(PRIORS),
    features: Features = "classifier",
    metrics: str = "frechet,kernel,precision,recall",
    protocol: Rules = "ours",
    seed: int = 0,
    max_bad_fraction: float = 0.01,
    cache: str | None = None,
    overwrite: bool = False,
    address: str | None = None,
) -> dict[str, Any]:
    """Score a bundle on test images: report.json, report.html and figures. What lacks its input is left out and named.

    Args:
        bundle: URI of the bundle.
        data: URI of the test images.
        out: URI of the evaluation, a folder.
        train_data: URI of the training images: for a classifier, as second reference, and to find test images among them.
        latents: URI of their latent table, to see whether samples repeat it.
        moments: URI of its moment sums, from which the other priors are fitted.
        priors: priors to sample, separated by commas; mixture is the bundle's own.
        features: classifier (trained on the labels of the training images) or inception.
        metrics: frechet, kernel, precision, recall, separated by commas.
        protocol: ours (images as they are; test and training images as references) or paper (JPEG on both sides).
        seed: seed of the samples.
        max_bad_fraction: share of undecodable test images above which the job fails.
        cache: URI of a folder that keeps classifiers and features of real images; else LBAE_CACHE or ~/.cache/lbae.
        overwrite: replace another artifact at ``out``.
        address: Ray cluster to join; found or started when not given.
    """
    settings = Settings(
        priors=evaluation.chosen_priors(priors),
        features=features,
        metrics=chosen_metrics(metrics),
        protocol=protocol,
        seed=seed,
    )
    inputs = evaluation.read_inputs(bundle, data, train_data, latents, moments)
    config = {**asdict(settings), "priors": list(settings.priors), "metrics": list(settings.metrics)}
    done = artifact.begin(out, evaluation.KIND, inputs.parents, config, overwrite)
    if done:
        return done
    kept = Cache(resolve(cache) if cache else cache_folder(), inputs.bundle.codec.config)
    with session(address):
        reached([inputs.test.uri, inputs.train.uri if inputs.train else None, latents], [])
        found, networks = _find(inputs, settings, kept, max_bad_fraction)
        report = evaluation.report(inputs, settings, found, networks)
        files = evaluation_page.files(inputs, report, found)
    for name, content in files.items():
        (resolve(out) / name).write_bytes(content)
    fingerprint = artifact.digest(files["report.json"])
    rows = report["images"][RECONSTRUCTIONS]
    shown = {name: report[name] for name in ("distances", "reconstructions", "classifier_accuracy", "left_out", "seconds")}
    return artifact.publish(
        out,
        evaluation.KIND,
        fingerprint=fingerprint,
        parents=inputs.parents,
        config=config,
        rows=rows,
        files=files,
        result=shown,
    )


def _find(inputs: Inputs, settings: Settings, cache: Cache, max_bad_fraction: float) -> tuple[Findings, dict[str, str]]:
    """All findings, and the fingerprints of the networks that looked."""
    started = time.monotonic()
    bundle, test = inputs.bundle, inputs.test
    classifier, networks = _classifier(inputs.train, bundle.codec.config, cache)
    extractor = _extractor(settings.features, inputs.train, classifier, networks)
    check_count(test.rows, extractor.num_features, settings.metrics, f"test images of {test.uri}")
    trained = time.monotonic()

    looker = Looker(
        bundle=bundle,
        priors=evaluation.make_priors(settings.priors, bundle, inputs.moments),
        extractor=extractor,
        classifier=classifier,
        lpips=load_lpips(bundle.codec.config),
        rules=settings.protocol,
        samples=test.rows,
        seed=settings.seed,
    )
    sources = {TEST: test} | ({TRAIN: inputs.train} if inputs.train and settings.protocol == "ours" else {})
    known = {
        name: cache.reference(source.fingerprint, networks[settings.features], settings.protocol)
        for name, source in sources.items()
    }
    streams = look(looker, test, {name: source for name, source in sources.items() if known[name] is None})
    check_bad_share(test.uri, int(streams[RECONSTRUCTIONS].sums["bad"]), test.rows, max_bad_fraction)
    references = {}
    for name, source in sources.items():
        if (reference := known[name]) is None:
            stream = streams.pop(name)
            reference = Reference(features=stream.features, sums=dict(stream.sums))
            cache.keep_reference(source.fingerprint, networks[settings.features], settings.protocol, reference)
        references[name] = reference
    looked = time.monotonic()

    left_out = {f"prior {name}": "needs --moments" for name in settings.priors if name not in looker.priors}
    if looker.lpips is None:
        left_out["LPIPS"] = "needs colour images of 32 pixels or more, and AlexNet's weights in torch's cache (TORCH_HOME)"
    found = compare(inputs, settings, classifier, streams, references, left_out)
    seconds = {"networks": trained - started, "look": looked - trained, "compare": time.monotonic() - looked}
    found.seconds = {name: round(value, 1) for name, value in seconds.items()}
    return found, networks


def _classifier(source: Source | None, config: ModelConfig, cache: Cache) -> tuple[Classifier | None, dict[str, str]]:
    """A classifier of the training images' attributes, if they have any, and its fingerprint by name."""
    if source is None:
        return None, {}
    found = cache.classifier(source.fingerprint)
    if not found:
        trained = trained_classifier(source, config)
        if trained is None:
            return None, {}
        found = trained[0], cache.keep_classifier(source.fingerprint, *trained)
    return found[0], {"classifier": found[1]}


def _extractor(
    features: Features, train: Source | None, classifier: Classifier | None, networks: dict[str, str]
) -> Extractor:
    """The network whose features are compared; Inception's fingerprint joins those of the networks."""
    if features == "inception":
        from lbae.report.inception import load_inception

        extractor, networks["inception"] = load_inception()
        return extractor
    if classifier is None:
        lack = f"{train.uri} has no label or attribute column" if train else "give training images with --train-data"
        raise UserError(f"a classifier's features need labelled training images: {lack}; or ask for --features inception")
    return classifier
