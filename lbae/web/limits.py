"""What the service allows: API keys, and limits of size, number and time."""

import os
from dataclasses import dataclass
from pathlib import Path

from lbae.errors import UserError

KEYS_VARIABLE = "LBAE_API_KEYS"
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """API keys, sizes of bodies, images and answers, requests at a time (others get a 503), seconds each."""

    keys: tuple[str, ...] = ()
    max_body_bytes: int = 32 * 2**20
    max_pixels: int = 25_000_000
    max_answer_pixels: int = 2**25
    max_running: int = 64
    max_seconds: float = 120


DEFAULT_LIMITS = Limits()


def read_api_keys(path: str | None, *, required: bool, where: str) -> tuple[str, ...]:
    """Return the keys of a file, one per line, or of LBAE_API_KEYS, separated by commas.

    UserError when there are none and ``where``, such as a host that is open to others, requires them.
    """
    if path is not None:
        try:
            lines = Path(path).read_text(encoding="utf-8-sig").splitlines()  # editors on Windows add a BOM
        except OSError as error:
            raise UserError(f"api_keys {path} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise UserError(f"api_keys {path} is no UTF-8 text; save it as UTF-8") from error
    else:
        lines = os.environ.get(KEYS_VARIABLE, "").split(",")
    keys = tuple(line.strip() for line in lines if line.strip())
    if path is not None and not keys:
        raise UserError(f"api_keys {path} holds no key; write one per line")
    if required and not keys:
        raise UserError(
            f"{where} is open to others and there are no API keys: give --api-keys FILE (one per line) or"
            f" {KEYS_VARIABLE}, or --insecure"
        )
    return keys
