"""The file that a command's answer goes to, as `--out` names it."""

from __future__ import annotations

import os
from pathlib import Path

from bigrun.directory import replace_file
from bigrun.errors import RunDirectoryError, UsageError

__all__ = ["require_place", "write_out"]


def require_place(path: Path) -> None:
    """Refuse, before anything is computed, a place where no file can be written.

    Raises:
        UsageError: it is a folder, lies in none, or nobody may write there.
    """
    try:
        if path.is_dir():
            raise UsageError(f"--out {path}: that is a folder; expected a file, as {path / 'name'}")
        if not path.parent.is_dir():
            raise UsageError(f"--out {path}: there is no folder {path.parent}; make it, or choose another")
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise UsageError(f"--out {path}: {path.parent} may not be written to; choose another")
    except OSError as error:  # a name that is too long
        raise UsageError(f"--out {path}: cannot be written ({error.strerror}); choose another") from None


def write_out(path: Path, contents: bytes) -> None:
    """Write the file at once: the old one or the new one stands there at any moment.

    Raises:
        UsageError: it cannot be written.
    """
    require_place(path)
    try:
        replace_file(path, contents)
    except RunDirectoryError as error:
        reason = getattr(error.__context__, "strerror", None) or error
        raise UsageError(f"--out {path}: cannot be written ({reason}); choose another") from None
