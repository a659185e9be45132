"""What the bundle registry and the replicas tell each other. It does not load torch."""

from dataclasses import dataclass

FACTS = "facts"  # the part of a bundle that is no field of ``Bundle``


@dataclass(frozen=True)
class BundleVersion:
    """A bundle version; ``number`` increases with each swap."""

    number: int
    uri: str
    fingerprint: str


@dataclass(frozen=True)
class Assignment:
    """The versions that a replica holds, and the one that it serves."""

    hold: tuple[BundleVersion, ...]
    serve: BundleVersion
