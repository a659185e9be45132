"""The Hugging Face Hub: ``hf://`` URIs of repositories, and files that are read through the Hub's cache.

A URI is ``hf://models/USER/NAME`` or ``hf://datasets/USER/NAME``, with ``@REVISION`` and ``/PATH`` as
huggingface_hub allows them. A file is downloaded once per commit into huggingface_hub's own cache, which
programs of the machine share. Endpoint, token, cache and offline mode are those of huggingface_hub's
environment (``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HOME``, ``HF_HUB_OFFLINE``).
"""

import dataclasses
import posixpath
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import lbae
from lbae.errors import LbaeError, TransientStorageError, UserError
from lbae.io.storage.location import Location, resolve
from lbae.transient_errors import is_transient

if TYPE_CHECKING:
    from huggingface_hub import HfApi, HfUri
    from huggingface_hub.errors import HfHubHTTPError

_FORMS = "hf://models/USER/NAME and hf://datasets/USER/NAME, with @REVISION and /PATH"
_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
_MOST_CHARACTERS = 300  # of a message from the Hub
_COMMIT_DIGITS = 40
_CHANGED = 412  # the status of a commit whose parent is not the newest one any more


def is_repository(uri: str) -> bool:
    """Whether a URI names a repository on the Hub. Its buckets are object stores, which fsspec reads."""
    return uri.startswith("hf://") and not uri.startswith("hf://buckets/")


def is_pinned(uri: str) -> bool:
    """Whether a URI names a commit of a repository on the Hub, whose content never changes."""
    revision = parse(uri).revision or "" if is_repository(uri) else ""
    return len(revision) == _COMMIT_DIGITS and set(revision) <= set("0123456789abcdef")


def client() -> "HfApi":
    """huggingface_hub's client; raises UserError if that package is not installed."""
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise UserError("hf:// needs the package huggingface_hub: pip install 'lbae[hf]'") from error
    return HfApi(library_name="lbae", library_version=lbae.__version__)


def parse(uri: str) -> "HfUri":
    """The parts of an ``hf://`` URI; raises UserError unless it names a model or data set repository."""
    client()
    from huggingface_hub import parse_hf_uri

    try:
        place = parse_hf_uri(uri)
    except ValueError as error:
        raise UserError(f"{str(error).rstrip('. ')}; allowed: {_FORMS}") from error
    if place.type not in ("model", "dataset"):
        raise UserError(f"{uri} names a {place.type} of the Hub; allowed: {_FORMS}")
    if place.path_in_repo and not {"", ".", ".."}.isdisjoint(place.path_in_repo.split("/")):
        raise UserError(f"{uri} has the path {place.path_in_repo!r}; allowed: a path below the repository")
    return place


def pinned(uri: str) -> str:
    """The URI with the commit that its revision names now; URIs of other storages are returned unchanged.

    Raises:
        UserError: The repository or its revision does not exist, or may not be read.
        TransientStorageError: The Hub does not answer, and the cache does not know the commit.
    """
    if not is_repository(uri):
        return uri
    place = parse(uri)
    with hub_errors(uri, "read"):
        commit = client().resolve_revision(place.id, repo_type=place.type, revision=place.revision).resolved
    return dataclasses.replace(place, revision=commit).to_uri()


def fetched(uri: str, names: Iterable[str]) -> Location:
    """The folder that holds an artifact's files: of the Hub the snapshot in its cache, else ``uri`` itself.

    Files of the Hub that the cache lacks are downloaded; those of a pinned URI need no request otherwise.

    Args:
        uri: URI of the artifact.
        names: The files that will be read, relative to the artifact's folder; at least one.

    Raises:
        UserError: As :func:`pinned`, or the repository has no such file.
        TransientStorageError: The Hub does not answer, and the cache lacks a file.
    """
    if not is_repository(uri):
        return resolve(uri)
    from huggingface_hub.errors import RemoteEntryNotFoundError

    place, folder = parse(pinned(uri)), ""
    for name in names:
        path = posixpath.join(place.path_in_repo, name)
        with hub_errors(uri, "read"):
            try:
                found = client().hf_hub_download(
                    place.id, path, repo_type=place.type, revision=place.revision
                )
            except RemoteEntryNotFoundError as error:
                raise UserError(
                    f"{uri} has no file {path}; give the URI of a model, bundle or table, as `lbae push`"
                    f" prints it"
                ) from error
        folder = found.removesuffix(f"/{name}")
    return resolve(folder)


@contextmanager
def hub_errors(uri: str, verb: str) -> Iterator[None]:
    """Convert huggingface_hub's exceptions into errors that name the URI and what to do."""
    try:
        yield
    except LbaeError:
        raise
    except Exception as error:  # huggingface_hub's, httpx's and the cache folder's errors
        if isinstance(error, OSError) and error.errno is not None:  # the local disk's, which name the file
            raise
        _raise(uri, verb, error)


def _raise(uri: str, verb: str, error: Exception) -> NoReturn:
    from huggingface_hub import constants, errors

    response = getattr(error, "response", None)
    if isinstance(error, errors.RevisionNotFoundError):
        raise UserError(f"{uri} has no such revision; give a branch, a tag or a commit of it") from error
    if isinstance(error, errors.GatedRepoError):
        page = parse(uri).to_url().partition("/tree/")[0]
        raise UserError(f"{uri} is gated: accept its terms at {page}, then {_LOG_IN}") from error
    if isinstance(error, errors.HfHubHTTPError) and response is not None and response.status_code < 500:
        _raise_refusal(uri, verb, error)
    if isinstance(error, ValueError):  # names and metadata that huggingface_hub or the Hub does not accept
        raise UserError(f"{uri} cannot be {verb}: {' '.join(str(error).split())}") from error
    if constants.is_offline_mode():
        raise UserError(
            f"{uri} is not in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE forbids to ask the Hub;"
            f" unset it, or read {uri} once while online"
        ) from error
    cause = error
    while cause.__cause__ is not None and isinstance(cause.__cause__, Exception):
        cause = cause.__cause__
    kind = TransientStorageError if is_transient(error) else LbaeError
    why = textwrap.shorten(f"{type(cause).__name__}: {cause}", _MOST_CHARACTERS, placeholder=" ...")
    raise kind(f"{uri} cannot be {verb}: the Hub at {constants.ENDPOINT} failed ({why})") from error


def _raise_refusal(uri: str, verb: str, error: "HfHubHTTPError") -> NoReturn:
    """Raise the error for an answer of the Hub with a status of 4xx."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import RepositoryNotFoundError

    status, token = error.response.status_code, get_token()
    said = textwrap.shorten(error.server_message or f"status {status}", _MOST_CHARACTERS, placeholder=" ...")
    if isinstance(error, RepositoryNotFoundError) and verb == "read":
        hint = "your token may not read it" if token else f"you are not logged in: {_LOG_IN}"
        raise UserError(
            f"{uri} does not exist on the Hub, or it is private and {hint}; check its name"
        ) from error
    if status in (401, 403, 404) and not token:
        raise UserError(f"{uri} cannot be {verb} without a token: {_LOG_IN}") from error
    if status == 401:
        raise UserError(f"the Hub refuses your token ({said}); {_LOG_IN} again") from error
    if status in (403, 404):
        raise UserError(
            f"{uri} cannot be {verb} with your token ({said}); give one that may write to it: {_LOG_IN}"
        ) from error
    if status == _CHANGED:
        raise LbaeError(f"{uri} cannot be {verb}: it has changed meanwhile; push again") from error
    if is_transient(error):
        raise TransientStorageError(f"{uri} cannot be {verb} now: the Hub says {said}; try again") from error
    raise LbaeError(f"{uri} cannot be {verb}: the Hub says {said}") from error
