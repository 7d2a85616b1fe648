"""The run directory: which one, and whether this run may use it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from bigrun.checkpoint.layout import CONFIG
from bigrun.config import Config, Document
from bigrun.errors import RunDirectoryError
from bigrun.links import refuse_links
from bigrun.lock import LOCK
from bigrun.refusals import why_unwritten

__all__ = [
    "check_directory",
    "check_unused",
    "choose_directory",
    "make_directory",
    "replace_file",
    "write_config",
]


def choose_directory(config: Config | Document, directory: Path | None, *, fresh: bool) -> Path:
    """The run directory: as asked, or `runs/<preset>`; with `fresh` the first of name, name-2, ... that is free."""
    wish = directory or Path("runs") / config.name
    if not fresh or not wish.exists():
        return wish
    number = 2
    while (candidate := wish.with_name(f"{wish.name}-{number}")).exists():
        number += 1
    return candidate


def check_directory(directory: Path) -> None:
    """Accept a directory that does not exist, is empty or holds a run; nothing is written.

    Raises:
        RunDirectoryError: it is a file, holds something that no run has made or links that lead out of it, or cannot
            be read.
    """
    try:
        if directory.exists() and not directory.is_dir():
            raise RunDirectoryError(f"{directory} is a file; a run needs a directory: choose another with --run-dir")
        begun = {LOCK, beside(directory / CONFIG).name}  # all that a start leaves which is killed before it has begun
        others = {path.name for path in directory.iterdir()} - begun if directory.is_dir() else set()
        if others and CONFIG not in others:
            raise RunDirectoryError(
                f"{directory} holds files but no run (there is no {CONFIG}): choose another with --run-dir"
            )
        if others:
            refuse_links(directory)
    except OSError as error:
        raise unusable(directory, error) from None


def make_directory(directory: Path) -> list[Path]:
    """Make the directory and those above it, where they are not there; returns what was made, the innermost last.

    Raises:
        RunDirectoryError: it cannot be made.
    """
    made: list[Path] = []
    try:
        for path in (*reversed(directory.parents), directory):
            if not path.is_dir():
                with contextlib.suppress(FileExistsError):  # another process makes it at this moment
                    path.mkdir()
                    made.append(path)
        directory.mkdir(exist_ok=True)
    except OSError as error:
        for path in reversed(made):
            with contextlib.suppress(OSError):
                path.rmdir()
        raise unusable(directory, error) from None
    return made


def check_unused(directory: Path) -> None:
    """Raises: RunDirectoryError when another process has begun, and ended, a run here since we looked."""
    if (directory / CONFIG).exists():
        raise RunDirectoryError(f"{directory}: another run has begun there meanwhile; give the command again")


def write_config(directory: Path, config: Config) -> None:
    """Write the configuration into the directory. Raises RunDirectoryError: it cannot be written."""
    replace_file(directory / CONFIG, config.to_toml().encode())


def replace_file(path: Path, contents: bytes) -> None:
    """Write a file of a run directory: the old one or the new one stands there at any moment.

    Raises:
        RunDirectoryError: it cannot be written; the error names the file, the reason and what to do.
    """
    new = beside(path)
    try:
        new.unlink(missing_ok=True)  # of a killed process
        with new.open("xb") as file:  # a new file: a link in its place is not followed
            file.write(contents)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)  # noqa: PTH105 - one atomic rename
    except OSError as error:
        with contextlib.suppress(OSError):  # on a full disk it has taken the room that was left
            new.unlink()
        raise RunDirectoryError(f"{path}: {why_unwritten(error)}") from None


def beside(path: Path) -> Path:
    """Where the new contents of a file are written before they take its name."""
    return path.with_name(f".{path.name}.new")


def unusable(directory: Path, error: OSError) -> RunDirectoryError:
    return RunDirectoryError(f"{directory} cannot be a run directory ({error.strerror}): choose another with --run-dir")
