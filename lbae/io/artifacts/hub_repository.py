"""Pushing an artifact to a repository of the Hugging Face Hub, in one commit.

A repository holds one artifact: the files that its manifest names, beside a card and pictures for people.
Readers see the version before or the version after a push, never a mixture.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lbae.errors import UserError
from lbae.io.artifacts import bundle_artifact, image_table, latent_table, model_artifact
from lbae.io.artifacts.manifest import MANIFEST, Manifest, read_manifest
from lbae.io.storage.hub import client, fetched, hub_errors, parse

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfUri

REPOSITORIES = {
    model_artifact.KIND: "model",
    bundle_artifact.KIND: "model",
    latent_table.KIND: "dataset",
    image_table.KIND: "dataset",
}
"""The type of the repository for each kind of artifact that can be pushed."""
CARD = "README.md"
# Files that the Hub or its users add to a repository beside what was pushed.
_FOREIGN = {CARD, ".gitattributes", ".gitignore", "LICENSE", "LICENSE.md", "LICENSE.txt"}


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A repository as it stands: its newest commit, and the artifact and the card that it holds.

    ``commit`` is empty if the repository does not exist, or if this user may not see it.
    """

    place: "HfUri"
    commit: str = ""
    private: bool = False
    manifest: Manifest | None = None
    card: str = ""

    @property
    def uri(self) -> str:
        """The repository's URI, without a revision."""
        return self.place.to_uri()

    def at(self, commit: str) -> str:
        """The URI of one commit of the repository."""
        return f"{self.uri}@{commit}"

    def holds(self, manifest: Manifest, card: str) -> bool:
        """Whether the repository's artifact and card are these."""
        found = self.manifest
        return found is not None and found.fingerprint == manifest.fingerprint and self.card == card


def find_repository(target: str, kind: str, private: bool) -> Repository:
    """The repository to push an artifact of this kind to, as it stands.

    Raises:
        UserError: The URI is of another form or type, or the repository holds something else, or is public
            although ``private`` is set, or may not be read.
        TransientStorageError: The Hub does not answer.
    """
    place, wanted = parse(target), REPOSITORIES[kind]
    if place.type != wanted or place.revision or place.path_in_repo:
        raise UserError(f"a {kind} cannot be pushed to {target}; allowed: hf://{wanted}s/USER/NAME")
    from huggingface_hub.errors import RepositoryNotFoundError

    with hub_errors(target, "read"):
        try:
            api = client()
            info = api.model_info(place.id) if wanted == "model" else api.dataset_info(place.id)
        except RepositoryNotFoundError:
            return Repository(place=place)
    if private and not info.private:
        raise UserError(f"{target} is public; make it private in its settings, or push without --private")
    names = {file.rfilename for file in info.siblings or ()}
    found = Repository(place=place, commit=info.sha or "", private=bool(info.private))
    here = found.at(found.commit)
    if MANIFEST in names:
        manifest = read_manifest(here)
        if manifest.kind != kind:
            raise UserError(f"{target} holds a {manifest.kind}; push the {kind} to another repository")
    elif names <= _FOREIGN:
        manifest = None
    else:
        raise UserError(
            f"{target} holds files that lbae did not push, such as {min(names - _FOREIGN)}; choose another"
            f" name"
        )
    card = (fetched(here, [CARD]) / CARD).read_bytes().decode(errors="replace") if CARD in names else ""
    return Repository(place=place, commit=found.commit, private=found.private, manifest=manifest, card=card)


def commit_artifact(
    repository: Repository, uri: str, manifest: Manifest, beside: Mapping[str, bytes], private: bool
) -> str:
    """Push the artifact at ``uri`` with the files ``beside`` it in one commit, and return the commit.

    The repository is created if it does not exist. Files of the artifact that it held before are deleted.

    Raises:
        UserError: The token is missing, or may not write to the repository.
        TransientStorageError: The Hub does not answer.
        LbaeError: The Hub refuses the commit, as after a push by someone else in the meantime.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    place, old = repository.place, repository.manifest
    same = old is not None and old.fingerprint == manifest.fingerprint
    stale = set() if old is None or same else set(old.files) - set(manifest.files) - set(beside)
    with hub_errors(repository.uri, "written"):
        if not repository.commit:
            client().create_repo(place.id, repo_type=place.type, private=private or None, exist_ok=True)
        operations = [
            *(CommitOperationAdd(name, data) for name, data in beside.items()),
            *(CommitOperationDelete(name) for name in sorted(stale)),
            *(() if same else _additions(place, uri, manifest)),
        ]
        done = client().create_commit(
            place.id,
            operations,
            commit_message=f"{manifest.kind} {manifest.fingerprint[:12]}",
            repo_type=place.type,
            parent_commit=repository.commit or None,
        )
    return done.oid


def _additions(place: "HfUri", uri: str, manifest: Manifest) -> Iterator["CommitOperationAdd"]:
    """The files of an artifact. Those of other storages are uploaded one by one, so memory holds one."""
    from huggingface_hub import CommitOperationAdd

    for name in (*manifest.files, MANIFEST):
        file = fetched(uri, [name]) / name
        if file.is_local:
            yield CommitOperationAdd(name, file.path)
        else:
            addition = CommitOperationAdd(name, file.read_bytes())
            client().preupload_lfs_files(place.id, [addition], repo_type=place.type)
            yield addition
