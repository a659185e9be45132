"""Fingerprints: SHA-256 over bytes, JSON values and rows."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any


def digest(*parts: bytes) -> str:
    """Fingerprint of byte strings, in order."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(len(part).to_bytes(8, "little"))
        sha.update(part)
    return sha.hexdigest()[:32]


def digest_json(value: Any) -> str:
    """Fingerprint of a JSON value."""
    return digest(json.dumps(value, sort_keys=True).encode())


class RowDigest:
    """A fingerprint of rows that depends neither on their order nor on how they are spread over parts.

    ``total`` is the sum of the rows' hashes modulo 2**256, so the totals of parts add up to that of a table.
    """

    def __init__(self, total: int = 0) -> None:
        self.total = total % 2**256

    def add(self, rows: Iterable[bytes]) -> None:
        """Add rows."""
        for row in rows:
            self.total += int.from_bytes(hashlib.sha256(row).digest(), "little")
        self.total %= 2**256

    def fingerprint(self, salt: str) -> str:
        """The fingerprint of all rows so far together with what else identifies the table."""
        return digest(salt.encode(), self.total.to_bytes(32, "little"))
