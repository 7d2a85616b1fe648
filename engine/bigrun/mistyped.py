"""The path that was meant by one that leads nowhere. Torch-free."""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Callable
from pathlib import Path

__all__ = ["did_you_mean_path"]

MOST_NAMES, MOST_TRIED = 20_000, 8
"""Names of a folder that are compared, in 0.5 s if they are alike, and near ones that are looked at."""
ALIKE = 0.75
"""How like a name has to be: one letter of four may be another. At difflib's 0.6 `.toml` alone makes names alike."""


def did_you_mean_path(path: Path, is_right: Callable[[Path], bool]) -> str:
    """` - did you mean 'runs/x'?` for the path whose names are nearest to those of `path`, or nothing.

    Args:
        is_right: whether a path is of the kind that is expected: no other is named.
    """
    with contextlib.suppress(OSError):  # a folder that may not be read has nothing to offer
        near = nearest(path, is_right)
        if near not in (None, path):
            return f" - did you mean {str(near)!r}?"
    return ""


def nearest(path: Path, is_right: Callable[[Path], bool]) -> Path | None:
    """From the top down, each name that leads nowhere replaced by the nearest one beside it that does not."""
    found, *below = [*reversed(path.parents), path]
    for place in below:
        kind = is_right if place == path else Path.is_dir
        near = nearest_name(found, place.name, kind)
        if near is None:
            return None
        found = found / near
    return found


def nearest_name(folder: Path, name: str, is_right: Callable[[Path], bool]) -> str | None:
    if is_right(folder / name):
        return name
    names = os.listdir(folder)[:MOST_NAMES]  # noqa: PTH208 - names alone
    near = difflib.get_close_matches(name, names, n=MOST_TRIED, cutoff=ALIKE)
    return next((other for other in near if is_right(folder / other)), None)
