"""The run directory: which one, and whether this run may use it."""

from __future__ import annotations

import os
from pathlib import Path

from bigrun.config import Config
from bigrun.errors import RunDirectoryError

__all__ = ["choose_directory", "claim_directory", "replace_text"]


def choose_directory(config: Config, directory: Path | None, *, fresh: bool) -> Path:
    """The run directory: as asked, or `runs/<preset>`; with `fresh` the first of name, name-2, ... that is free."""
    wish = directory or Path("runs") / config.name
    if not fresh or not wish.exists():
        return wish
    number = 2
    while (candidate := wish.with_name(f"{wish.name}-{number}")).exists():
        number += 1
    return candidate


def claim_directory(directory: Path) -> None:
    """Make the run directory, or accept one that holds a run.

    Raises:
        RunDirectoryError: it is a file, or holds something that no run has made.
    """
    if directory.exists() and not directory.is_dir():
        raise RunDirectoryError(f"{directory} is a file; a run needs a directory: choose another with --run-dir")
    if directory.is_dir() and any(directory.iterdir()) and not (directory / "config.toml").is_file():
        raise RunDirectoryError(
            f"{directory} holds files but no run (there is no config.toml): choose another with --run-dir"
        )
    directory.mkdir(parents=True, exist_ok=True)


def replace_text(path: Path, text: str) -> None:
    """Write a file that is the old one or the new one at any moment."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)  # noqa: PTH105 - one atomic rename
