"""Score a bundle on test images: a report in JSON and as a web page."""

from dataclasses import asdict
from typing import Any

from lbae.distributed.cluster.session import session
from lbae.distributed.cluster.storage_check import check_storage
from lbae.distributed.evaluate.evaluation_run import run_evaluation
from lbae.errors import UserError
from lbae.io.artifacts.output import Output
from lbae.io.storage.cache_folder import cache_folder
from lbae.io.storage.digests import digest
from lbae.io.storage.location import resolve
from lbae.jobs.options import Address, BadFraction, Gpus, OneOrMore, Overwrite, Track
from lbae.report.evaluation.cache import Cache
from lbae.report.evaluation.inputs import EvaluationInputs, read_inputs
from lbae.report.evaluation.report_json import KIND, evaluation_report
from lbae.report.evaluation.settings import PRIORS, EvaluationSettings, Features, PriorName
from lbae.report.evaluation.streams import PROTOCOL_VERSION, RECONSTRUCTIONS, Rules
from lbae.report.features.feature_sums import METRICS, Metric, chosen_metrics
from lbae.report.pages import evaluation_page
from lbae.report.tracking.evaluation import track_evaluation
from lbae.report.tracking.service import tracking_service


def evaluate(
    *,
    bundle: str,
    data: OneOrMore,
    out: str,
    train_data: OneOrMore | None = None,
    latents: OneOrMore | None = None,
    moments: str | None = None,
    priors: tuple[PriorName, ...] = PRIORS,
    temperatures: tuple[float, ...] = (),
    features: Features = "classifier",
    metrics: tuple[Metric, ...] = METRICS,
    protocol: Rules = "ours",
    seed: int = 0,
    max_bad_fraction: BadFraction = 0.01,
    cache: str | None = None,
    track: Track = None,
    overwrite: Overwrite = False,
    gpus: Gpus = None,
    address: Address = None,
) -> dict[str, Any]:
    """Score a bundle on test images: report.json, report.html and figures.

    The report lists the measurements that were left out because an input is missing.

    Args:
        bundle: URI of the bundle.
        data: URI of the test images; several are read as one, as by `lbae encode`.
        out: URI of the folder to write.
        train_data: URI of the training images. They train the classifier, are a second reference,
            and are searched for copies of test images. Give them under the names they were encoded with.
        latents: URI of the training images' latent table, to find the nearest neighbours of samples.
            Several, or a pattern such as 'OUT/*', are searched as one table.
        moments: URI of the moment sums of these tables, to fit all priors but mixture and coins.
        priors: Prior to sample from; mixture is the bundle's own.
            Repeat for several; given values replace the default, all of them.
        temperatures: Also sample from the bundle's own prior at this temperature, 0 to 2.
            Repeat for several.
        features: Features for distances: classifier (trained on labels of --train-data) or inception.
        metrics: Distance to measure.
            Repeat for several; given values replace the default, all of them.
        protocol: ours (unchanged images; test and training images as references),
            or paper (all images as JPEG; test images only).
        seed: Seed of the samples, 0 or more.
        cache: URI of a folder to cache classifiers and features of real images in.
            If omitted: LBAE_CACHE, else ~/.cache/lbae.
    """
    if seed < 0:
        raise UserError(f"seed is {seed}; allowed: 0 or more")
    settings = EvaluationSettings(
        priors=tuple(dict.fromkeys(priors)),
        temperatures=tuple(dict.fromkeys(temperatures)),
        features=features,
        metrics=chosen_metrics(metrics),
        protocol=protocol,
        seed=seed,
    )
    service = tracking_service(track)
    inputs = read_inputs(bundle, data, train_data, latents, moments)
    for temperature in temperatures:
        inputs.bundle.prior.at(temperature)  # refuses one out of range before anything is computed
    for source in (inputs.test, inputs.train) if inputs.train else (inputs.test,):
        source.check_output(out)
    tables = inputs.latents.uris if inputs.latents else []
    output = Output(
        out,
        KIND,
        parents=inputs.parents,
        config=_config(settings),
        inputs=[bundle, *tables, moments, *_folders(inputs)],
        overwrite=overwrite,
    )
    if done := output.existing():
        track_evaluation(service, out, bundle)
        return done
    kept = Cache(resolve(cache) if cache else cache_folder())
    with session(address, gpus):
        check_storage([*inputs.test.uris, *(inputs.train.uris if inputs.train else []), *tables], [])
        found = run_evaluation(inputs, settings, kept, max_bad_fraction)
        report = evaluation_report(inputs, settings, found)
        files = evaluation_page.files(inputs, report, found)
    done = output.begin() or _publish(output, report, files, inputs.test.skipped_result)
    track_evaluation(service, out, bundle)
    return done


def _config(settings: EvaluationSettings) -> dict[str, Any]:
    """The settings as the artifact stores them; without temperatures as in earlier versions."""
    lists = {
        name: list(value) for name, value in asdict(settings).items() if isinstance(value, tuple) and value
    }
    rest = {name: value for name, value in asdict(settings).items() if not isinstance(value, tuple)}
    return {"version": PROTOCOL_VERSION, **rest, **lists}


def _folders(inputs: EvaluationInputs) -> set[str]:
    """The folders that hold the input images."""
    return inputs.test.folders | (inputs.train.folders if inputs.train else set())


def _publish(
    output: Output, report: dict[str, Any], files: dict[str, bytes], skipped: dict[str, Any]
) -> dict[str, Any]:
    """Write the files and return the numbers that the job prints."""
    for name, content in files.items():
        (resolve(output.uri) / name).write_bytes(content)
    shown = ("distances", "reconstructions", "classifier_accuracy", "left_out", "seconds")
    return output.publish(
        fingerprint=digest(files["report.json"]),
        rows=report["images"][RECONSTRUCTIONS],
        files=files,
        result={**{name: report[name] for name in shown}, **skipped},
    )
