"""Where a file that a source names lies, and that it lies in the data set."""

from __future__ import annotations

import os
from pathlib import Path

from bigrun.data.faults import BadImageError

__all__ = ["locate"]


def locate(root: Path, path: str, *, confined: bool) -> str:
    """The file's place on the disk.

    Args:
        path: relative to `root`, from wherever: the table of somebody else's data set, above all.
        confined: also follow symbolic links, and refuse what they lead to outside of `root`.

    Raises:
        BadImageError: "outside" for an absolute path and for one that leaves the root, "missing" for one that no file
            can have.
    """
    if "\0" in path:
        raise BadImageError(path, "missing", "no file can have this name: it contains a NUL character")
    if path.startswith(os.sep):
        raise BadImageError(path, "outside", f"an absolute path, expected one relative to {root}")
    whole = os.path.join(root, path)  # noqa: PTH118 - pathlib costs 5 us more per file
    if (os.path.normpath(path) + os.sep).startswith(os.pardir + os.sep):
        raise BadImageError(path, "outside", f"leaves the folder of the data set, {root}")
    if confined:
        real, inside = os.path.realpath(whole), os.path.realpath(root)
        if not (real + os.sep).startswith(inside.rstrip(os.sep) + os.sep):
            raise BadImageError(path, "outside", f"a symbolic link leads out of the data set's folder, to {real}")
    return whole
