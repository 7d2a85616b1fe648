"""Which groups of images are for validation: a function of the seed, the level and the group's name alone."""

from __future__ import annotations

import hashlib
import unicodedata

__all__ = ["RULE", "falls_in_validation", "normal", "place"]

RULE = "sha256"
"""What a manifest calls this rule; another one would have another name."""
RANGE = 2**64


def normal(key: str) -> str:
    """A group's name as it is compared: Unicode's NFC, for file systems differ in how they spell an accent."""
    return unicodedata.normalize("NFC", key)


def place(seed: int, level: str, key: str) -> float:
    """Where a group stands in [0, 1): the first 64 bits of SHA-256 over `bigrun split 1`, seed, level and key, which
    NUL characters separate."""
    text = "\0".join(("bigrun split 1", str(seed), level, normal(key)))
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / RANGE


def falls_in_validation(seed: int, level: str, key: str, fraction: float) -> bool:
    """Whether a group is for validation: it stands below the fraction, whatever other groups there are."""
    return place(seed, level, key) < fraction
