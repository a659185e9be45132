"""Fingerprints: SHA-256 over bytes, JSON values and rows."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any


def digest(*parts: bytes) -> str:
    """Fingerprint of a sequence of byte strings: 32 hex digits."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(len(part).to_bytes(8, "little"))
        sha.update(part)
    return sha.hexdigest()[:32]


def digest_json(value: Any) -> str:
    """Fingerprint of a JSON value."""
    return digest(json.dumps(value, sort_keys=True).encode())


class RowDigest:
    """A fingerprint of rows that does not depend on their order or on their division into parts.

    ``total`` is the sum of the rows' SHA-256 hashes modulo 2**256. A table's total is therefore the sum of
    the totals of its parts.
    """

    def __init__(self, total: int = 0) -> None:
        self.total = total % 2**256

    def add(self, rows: Iterable[bytes]) -> None:
        """Add rows."""
        for row in rows:
            self.total += int.from_bytes(hashlib.sha256(row).digest(), "little")
        self.total %= 2**256

    def fingerprint(self, salt: str) -> str:
        """The fingerprint of all rows added so far and of ``salt``, which identifies the table otherwise."""
        return digest(salt.encode(), self.total.to_bytes(32, "little"))
