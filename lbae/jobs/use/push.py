"""Push a model, bundle or table to the Hugging Face Hub, with a card."""

from typing import Any

from lbae.errors import UserError
from lbae.io.artifacts import bundle_artifact
from lbae.io.artifacts.hub_repository import CARD, REPOSITORIES, commit_artifact, find_repository
from lbae.io.artifacts.manifest import read_manifest
from lbae.io.images import encode_png, square_grid
from lbae.io.storage.hub import pinned
from lbae.jobs.options import Names
from lbae.report.pages.hub_card import SAMPLES, SEED, SHOWN, CardFacts, card


def push(
    uri: str,
    target: str,
    /,
    *,
    evaluation: str | None = None,
    license: str | None = None,
    dataset: Names = (),
    private: bool = False,
) -> dict[str, Any]:
    """Push a model, bundle, latent table or image table to the Hugging Face Hub, in one commit.

    The repository is created if it does not exist. It gets the artifact, a card (README.md) and, of a bundle,
    a picture of samples. A second push changes what differs. The token is that of `hf auth login` or
    HF_TOKEN.

    Args:
        uri: URI of the artifact.
        target: Repository: hf://models/USER/NAME for a model or bundle, hf://datasets/USER/NAME for a table.
        evaluation: URI of an evaluation of the bundle, whose numbers the card shows.
        license: Licence of the artifact as the Hub names it, such as apache-2.0.
            If omitted: the card names none.
        dataset: Data set on the Hub that the artifact was made from, USER/NAME, for the card.
            Repeat for several.
        private: Create the repository as a private one. An existing public one is refused.
    """
    uri = pinned(uri)
    manifest = read_manifest(uri)
    if manifest.kind not in REPOSITORIES:
        raise UserError(f"{uri} is of kind {manifest.kind}; allowed here: {', '.join(REPOSITORIES)}")
    repository = find_repository(target, manifest.kind, private)
    facts = CardFacts(uri=repository.uri, evaluation=evaluation, license=license, datasets=dataset)
    text = card(uri, manifest, facts)
    result = {"out": repository.uri, "kind": manifest.kind, "fingerprint": manifest.fingerprint}
    if repository.holds(manifest, text):
        return {**result, "version": repository.at(repository.commit), "already": True}
    beside = {CARD: text.encode()}
    if manifest.kind == bundle_artifact.KIND:
        images = bundle_artifact.load_bundle(uri, "cpu").sample(SHOWN, seed=SEED)
        beside[SAMPLES] = encode_png(square_grid(images))
    commit = commit_artifact(repository, uri, manifest, beside, private)
    return {**result, "version": repository.at(commit), "files": len(manifest.files) + 1 + len(beside)}
