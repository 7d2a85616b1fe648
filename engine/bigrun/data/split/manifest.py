"""A division of a data set into training and validation, as a file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from bigrun.data.split.rule import RULE, falls_in_validation, normal

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["FORMAT_VERSION", "LEVELS", "RULES", "Split"]

FORMAT_VERSION = 1
LEVELS = ("patient", "study", "series", "folder", "image")
"""By what images are kept together, from the coarsest to the finest."""
RULES = (RULE, "list")


@attrs.frozen
class Split:
    """Which groups are for validation; all others are for training.

    A group is for validation when it is in `validation_groups`, or when the rule says so and it is not in
    `training_groups`. So a group that joins the data later has its part already, and none ever changes.
    """

    rule: str
    """`sha256`: as `bigrun.data.split.rule` says. `list`: none but `validation_groups`."""
    seed: int
    fraction: float
    level: str
    validation_groups: frozenset[str]
    training_groups: frozenset[str] = frozenset()
    """Groups that the rule would put into validation and that stay in training all the same."""
    path: Path | None = None
    """The manifest that it was read from."""
    contents: bytes = b""
    """Of that file."""

    @classmethod
    def load(cls, path: str | Path) -> Split:
        """Read a manifest.

        Raises:
            UsageError: it cannot be read, or is not what a manifest is.
        """
        from bigrun.data.split.read import read_split

        return read_split(Path(path))

    def validation(self, keys: Iterable[str]) -> npt.NDArray[np.bool_]:
        """(n,) whether samples are for validation.

        Args:
            keys: (n,) the group of each sample, at `level`: its patient, say.
        """
        names = keys.tolist() if isinstance(keys, np.ndarray) else list(keys)
        parts = {key: self.is_validation(key) for key in set(names)}
        return np.fromiter((parts[key] for key in names), dtype=np.bool_, count=len(names))

    def training(self, keys: Iterable[str]) -> npt.NDArray[np.bool_]:
        """(n,) whether samples are for training: the opposite of `validation`."""
        return ~self.validation(keys)

    def is_validation(self, key: str) -> bool:
        """Whether a group is for validation."""
        name = normal(key)
        if name in self.validation_groups or name in self.training_groups:
            return name in self.validation_groups
        return self.rule == RULE and falls_in_validation(self.seed, self.level, name, self.fraction)

    @property
    def sha256(self) -> str:
        """Of the manifest's bytes, in hex."""
        return hashlib.sha256(self.contents).hexdigest()

    @property
    def identity(self) -> str:
        """SHA-256 over what decides, in hex: equal for two manifests that divide every data set alike, whenever and
        by whichever version of bigrun they were written."""
        return hashlib.sha256(json.dumps(self.decides(), sort_keys=True).encode()).hexdigest()

    def decides(self) -> dict[str, Any]:
        """The part of a manifest that decides, as JSON."""
        return {
            "format_version": FORMAT_VERSION,
            "rule": self.rule,
            "seed": self.seed,
            "fraction": self.fraction,
            "level": self.level,
            "validation_groups": sorted(self.validation_groups),
            "training_groups": sorted(self.training_groups),
        }
