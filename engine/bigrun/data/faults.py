"""What can be wrong with one file of a data set."""

from __future__ import annotations

import math

import attrs

from bigrun.errors import DataError

__all__ = ["CAUSES", "BadImageError", "Fault", "allowed"]

CAUSES = (
    "missing",
    "not-a-file",
    "unreadable",
    "empty",
    "not-an-image",
    "truncated",
    "too-large",
    "unsupported",
    "outside",
    "other",
)


class BadImageError(DataError):
    """One file of a data set cannot be used; the loader puts another in its place."""

    def __init__(self, path: str, cause: str, message: str) -> None:
        """
        Args:
            path: of the file.
            cause: one of CAUSES.
            message: what is wrong with it, and what to do.
        """
        super().__init__(f"{path}: {message}")
        self.path = path
        self.cause = cause
        self.message = message

    def __reduce__(self) -> tuple[type[BadImageError], tuple[str, str, str]]:
        return type(self), (self.path, self.cause, self.message)


@attrs.frozen
class Fault:
    """A bad file that the loader has met, or that was known before the first step."""

    path: str
    cause: str
    """One of CAUSES."""
    message: str
    """All of it, with the path."""
    number: int | None = None
    """Of the sample in which it was met; None for one that never had a number."""
    replacement: int | None = None
    """Number of the sample that was put in its place; None where nothing was."""

    @classmethod
    def of(cls, error: DataError, name: str = "", number: int | None = None) -> Fault:
        """What an error says; `name` is the sample's, for an error that names no file."""
        if isinstance(error, BadImageError):
            return cls(error.path, error.cause, str(error), number)
        return cls(name, "other", str(error), number)


def allowed(max_bad_fraction: float, total: int) -> int:
    """So many of a data set's files may be bad: a fraction of all of them, and one of however few."""
    return max(1, math.floor(max_bad_fraction * total + 1e-9))
