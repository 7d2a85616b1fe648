"""What a check finds, and what a data set may say of itself for it."""

from __future__ import annotations

import attrs

__all__ = ["UNSEARCHED", "Finding", "Intensity"]

UNSEARCHED = "unsearched-folders"
"""The kind of finding that a folder of the data set could not be searched."""


@attrs.frozen
class Finding:
    """Something about a data set that its user should know before training."""

    kind: str
    """A short name, as `bad-images`: what `data.accept_findings` calls it."""
    message: str
    """What was seen, what was expected, what to do."""
    refuses: bool = False
    """Whether training must not start with it."""


@attrs.frozen
class Intensity:
    """What the stored values of images mean: value = (stored - offset) * slope."""

    unit: str
    slope: float = 1.0
    offset: float = 0.0
