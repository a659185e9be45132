"""Who may use the service, and its limits of size, number and time."""

import os
from dataclasses import dataclass
from pathlib import Path

from lbae.errors import UserError

KEYS_VARIABLE = "LBAE_API_KEYS"
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """API keys, hosts, origins and limits; a request beyond a limit is refused.

    ``hosts`` are the names and addresses by which the service is called, besides those of the loopback; they
    count where there are no ``keys``. Browsers may use the service for pages of the ``origins``, such as
    ``https://app.example.org``. :mod:`lbae.web.foreign_pages` makes both.
    ``max_pixels`` bounds what is decoded of one uploaded image, ``max_answer_pixels`` all images of a
    response. Requests beyond ``max_running`` at once get 503, and so do those for which less than their share
    of ``max_memory_bytes`` is free (:mod:`lbae.web.memory`). A request that takes longer than ``max_seconds``
    gets 408 or 504.
    """

    keys: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    max_body_bytes: int = 32 * 2**20
    max_pixels: int = 12_500_000
    max_answer_pixels: int = 2**25
    max_running: int = 64
    max_memory_bytes: int = 640 * 2**20
    max_seconds: float = 120


DEFAULT_LIMITS = Limits()


def read_api_keys(path: str | None, *, required: bool, where: str) -> tuple[str, ...]:
    """Return the API keys of a file (one per line), or without one, of LBAE_API_KEYS (separated by commas).

    UserError for a file without keys, for a key that no header can carry, and when keys are ``required`` and
    there are none. ``where`` names in the message what requires them, such as ``host 0.0.0.0``.
    """
    if path is not None:
        try:
            lines = Path(path).read_text(encoding="utf-8-sig").splitlines()  # editors on Windows add a BOM
        except OSError as error:
            raise UserError(f"API key file {path} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise UserError(f"API key file {path} is not UTF-8; save it as UTF-8") from error
    else:
        lines = os.environ.get(KEYS_VARIABLE, "").split(",")
    keys = tuple(line.strip() for line in lines if line.strip())
    if path is not None and not keys:
        raise UserError(f"API key file {path} holds no key; write one key per line")
    for number, key in enumerate(keys, 1):
        if not (key.isascii() and key.isprintable()):
            raise UserError(
                f"API key {number} of {path or KEYS_VARIABLE} has characters that clients cannot send in a"
                " header; allowed: printable ASCII"
            )
    if required and not keys:
        raise UserError(
            f"{where} is open to other machines and there are no API keys: give --api-keys FILE (one key per"
            f" line) or set {KEYS_VARIABLE} (separated by commas), or allow requests without keys: --insecure"
        )
    return keys
