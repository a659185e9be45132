"""The names of sources, with which the keys of their images begin.

``NAME=URI`` names a source. Several sources need names, because the files of two may be called the same: one
without a name has the last part of its path. The keys of a single source without a name have no beginning.
"""

import itertools
from collections.abc import Sequence

from lbae.errors import UserError
from lbae.io.storage.location import resolve


def split_name(given: str) -> tuple[str, str]:
    """Name and URI of ``NAME=URI``; the name is empty if there is none, or the whole is an existing path."""
    name, _, uri = given.partition("=")
    if not (name and uri) or {"/", ":"} & set(name) or ("://" not in given and resolve(given).exists()):
        return "", given
    return name, uri


def check_names(named: Sequence[tuple[str, str]]) -> None:
    """UserError if a source, given as name and location, has no usable name, or two are not apart.

    They are apart if they have different names, and neither holds the other.
    """
    for name, uri in named:
        if not name or {"=", ":"} & set(name):
            raise UserError(
                f"data {uri} is one of several and needs a name without = and :, with which the keys of its"
                f" images begin; give it as NAME=URI"
            )
    for (name, uri), (its_name, its_uri) in itertools.combinations(named, 2):
        if name == its_name:
            raise UserError(
                f"data {uri} and {its_uri} have the same name {name!r}, with which the keys of their images"
                f" begin; give one of them as NAME=URI"
            )
        if resolve(uri).holds(resolve(its_uri)) or resolve(its_uri).holds(resolve(uri)):
            raise UserError(
                f"data {uri} and {its_uri} hold the same files, whose images would count twice; give one"
            )
