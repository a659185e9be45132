"""The card of an artifact on the Hugging Face Hub: README.md from its manifest and its evaluation."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lbae.config import ModelConfig
from lbae.errors import UserError
from lbae.io.artifacts import bundle_artifact, image_table, latent_table, model_artifact
from lbae.io.artifacts.manifest import Manifest, read_manifest
from lbae.io.storage.hub import fetched, parse
from lbae.io.storage.json_file import read_object
from lbae.io.storage.stored_file import damaged
from lbae.report.evaluation.report_json import KIND as EVALUATION
from lbae.report.pages.evaluation_sections import distance_table, plain, worded

SAMPLES = "samples.png"
SHOWN, SEED = 64, 0
"""The number of samples in a bundle's picture, and their seed."""
_MOST_ATTRIBUTES = 20
_REPORT = "report.json"


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What a card says beside the manifest; ``evaluation`` is the URI of an evaluation of this bundle."""

    uri: str
    evaluation: str | None = None
    license: str | None = None
    datasets: Sequence[str] = ()


def card(source: str, manifest: Manifest, facts: CardFacts) -> str:
    """The text of README.md for the artifact at ``source``, which is pushed to ``facts.uri``.

    Raises:
        UserError: The evaluation is not one of this artifact, or its report is damaged.
    """
    from huggingface_hub import ModelCard

    place = parse(facts.uri)
    config = bundle_artifact.load_config(source) if place.type == "model" else None
    sections = [
        f"# {place.id.partition('/')[2]}",
        _WHAT[manifest.kind],
        *([f"![{SHOWN} samples, seed {SEED}]({SAMPLES})"] if manifest.kind == bundle_artifact.KIND else []),
        f"## Load\n\n`pip install 'lbae[hf]'`\n\n```python\n{_loading(facts.uri, manifest, config)}\n```",
        "## Facts\n\n" + _table([("", ""), *_facts(manifest, config)]),
        *([_numbers(facts.evaluation, manifest)] if facts.evaluation else []),
    ]
    return str(ModelCard(f"---\n{_metadata(manifest, facts)}\n---\n\n" + "\n\n".join(sections) + "\n"))


def _metadata(manifest: Manifest, facts: CardFacts) -> str:
    """The fields that the Hub reads, as YAML."""
    from huggingface_hub import DatasetCardData, ModelCardData

    tags, datasets = ["lbae", manifest.kind.split()[-1]], list(facts.datasets) or None
    if parse(facts.uri).type == "dataset":
        parts = [{"config_name": "default", "data_files": "data/*.parquet"}]  # without the quarantine
        return DatasetCardData(
            license=facts.license, tags=tags, source_datasets=datasets, configs=parts
        ).to_yaml()
    task = "unconditional-image-generation" if manifest.kind == bundle_artifact.KIND else None
    return ModelCardData(
        library_name="lbae", license=facts.license, tags=tags, pipeline_tag=task, datasets=datasets
    ).to_yaml()


_WHAT = {
    model_artifact.KIND: "A Latent Bernoulli Autoencoder: it encodes an image to bits, and decodes them.",
    bundle_artifact.KIND: "A Latent Bernoulli Autoencoder with its prior over the bits. It draws new images,"
    " interpolates between images, edits their attributes, and encodes them to bits.",
    latent_table.KIND: "Images as bits of a Latent Bernoulli Autoencoder: Parquet with a key, the packed bits"
    " (least significant bit first, 1 is +1) and the columns of the source per image.",
    image_table.KIND: "Images as Parquet, one per row, made with a Latent Bernoulli Autoencoder.",
}


def _loading(uri: str, manifest: Manifest, config: ModelConfig | None) -> str:
    """Five lines of Python that load the artifact and use it."""
    if config:
        images = f"np.zeros((1, {', '.join(map(str, config.image_shape))}), dtype=np.uint8)"
        if manifest.kind == bundle_artifact.KIND:
            return (
                "import lbae\nfrom PIL import Image\n\n"
                f'bundle = lbae.load_bundle("{uri}")\n'
                "images = bundle.sample(16, seed=0)  # uint8 (16, H, W, C)\n"
                'Image.fromarray(images[0].squeeze()).save("sample.png")'
            )
        return (
            "import lbae\nimport numpy as np\n\n"
            f'codec = lbae.load_model("{uri}")\n'
            f"latents = codec.encode({images})  # int8 (K, N) of +1 and -1\n"
            "images = codec.decode(latents)  # uint8 (K, H, W, C)"
        )
    table = (
        "import pyarrow.parquet as pq\nfrom huggingface_hub import HfFileSystem\n\n"
        f'table = pq.read_table("datasets/{parse(uri).id}/data", filesystem=HfFileSystem())\n'
    )
    if manifest.kind == image_table.KIND:
        return table + 'files = [image["bytes"] for image in table["image"].to_pylist()]'
    bits = manifest.config.get("latent_dim")
    return (
        f"import numpy as np\n{table}"
        'packed = np.stack([np.frombuffer(row, np.uint8) for row in table["latent"].to_pylist()])\n'
        f'bits = np.unpackbits(packed, axis=1, count={bits}, bitorder="little")  # (K, N), 1 is +1'
    )


def _facts(manifest: Manifest, config: ModelConfig | None) -> Iterable[tuple[str, object]]:
    """The rows of the table of facts."""
    yield "kind", manifest.kind
    if config:
        height, width, channels = config.image_shape
        yield "images", f"{height} x {width} pixels, {'grey' if channels == 1 else 'RGB'}"
        yield "bits per image", config.latent_dim
    elif manifest.kind == latent_table.KIND:
        yield "bits per image", manifest.config.get("latent_dim")
    yield _ROWS.get(manifest.kind, "rows"), manifest.rows
    for name in ("precision", "components", "sampler"):
        if value := manifest.result.get(name) or manifest.config.get(name):
            yield name, value
    if attributes := manifest.result.get("attributes"):
        more = len(attributes) - _MOST_ATTRIBUTES
        shown = ", ".join(map(str, attributes[:_MOST_ATTRIBUTES]))
        yield "attributes", shown + (f" and {more} more" if more > 0 else "")
    yield "fingerprint", manifest.fingerprint
    for name, fingerprint in manifest.parents.items():
        yield f"fingerprint of its {name}", fingerprint
    yield "made", f"{manifest.created} with lbae {manifest.packages.get('lbae')}"


_ROWS = {model_artifact.KIND: "training images", bundle_artifact.KIND: "images that the prior was fitted to"}


def _numbers(evaluation: str, manifest: Manifest) -> str:
    """The section with the evaluation's numbers and the protocol by which they were measured."""
    found = read_manifest(evaluation, EVALUATION)
    if found.parents.get("bundle") != manifest.fingerprint:
        raise UserError(
            f"evaluation {evaluation} is of a bundle with the fingerprint {found.parents.get('bundle')}; this"
            f" {manifest.kind} has {manifest.fingerprint}: give the evaluation of this bundle"
        )
    place = fetched(evaluation, [_REPORT]) / _REPORT
    report = read_object(place)
    try:
        told = {name: report[name] for name in ("protocol", "version", "features", "seed", "images")}
        told |= {"hardware": report["hardware"], "packages": report["versions"]}
        errors = [("reconstructions of test images", ""), *worded(report["reconstructions"])]
        settings = [("measured with", ""), *((name, plain(value)) for name, value in told.items())]
        measured = "\n\n".join(map(_table, (distance_table(report), errors, settings)))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged(place, f"{error!r:.200}") from error
    return (
        "## Evaluation\n\nMeasured with `lbae evaluate`. Lower distances and higher precision and recall are"
        f" better. Fingerprint of the evaluation: `{found.fingerprint}`.\n\n{measured}"
    )


def _table(rows: Sequence[Sequence[object]]) -> str:
    """Rows, the first of them a header, as a table in Markdown; no cell can end the table or be markup."""
    lines = ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def _cell(value: object) -> str:
    text = " ".join(str(value).split()).replace("`", "'").replace("|", "/")
    return f"`{text}`" if set(text) & set("<>[]*_\\#!") else text
