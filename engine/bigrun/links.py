"""Symbolic links in a run directory: nothing is read or written through one that leads out of it.

Whoever may write into a run directory (on a disk that several people share, or before it was copied here) could
otherwise have this process write, cut or delete files that only its user may touch. The directory itself may be a link:
its user has chosen it. A link that stays inside (`latest -> checkpoints/step-00012000`) gives nobody anything new and
is left alone.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from bigrun.errors import RunDirectoryError
from bigrun.refusals import unreadable

__all__ = ["find_links_out", "open_append", "read_bytes", "refuse_links"]

SHOWN = 5


def find_links_out(directory: Path) -> Iterator[tuple[Path, Path]]:
    """(link, where it leads) of every symbolic link below `directory` that leads out of it; none is followed.

    Raises:
        OSError: a folder cannot be listed.
    """
    home = Path(os.path.realpath(directory))
    waiting = [directory]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as scan:
                entries = list(scan)
        except FileNotFoundError:  # a checkpoint that another process has published or removed meanwhile
            continue
        for entry in entries:
            if entry.is_symlink():
                target = Path(os.path.realpath(entry.path))
                if not target.is_relative_to(home):
                    yield Path(entry.path), target
            elif entry.is_dir(follow_symlinks=False):
                waiting.append(Path(entry.path))


def refuse_links(directory: Path) -> None:
    """Refuse a directory that holds a link out of it.

    Raises:
        RunDirectoryError: naming the links, or the folder that cannot be listed.
    """
    try:
        found = sorted(find_links_out(directory))
    except OSError as error:
        raise RunDirectoryError(unreadable(directory, error)) from None
    if found:
        more = [f"  and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
        raise RunDirectoryError(
            "\n".join(
                [
                    f"{directory} holds links that lead out of it, through which a run neither reads nor writes:",
                    *(f"  {link} -> {target}" for link, target in found[:SHOWN]),
                    *more,
                    f"remove them; to use another disk move the whole run there, {directory} itself may be a link",
                ]
            )
        )


def open_append(path: Path) -> IO[str]:
    """Open a text file of a run directory to write at its end; it is made if it is not there.

    Raises:
        OSError: it cannot be opened; ELOOP where it is a link, whatever that leads to.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.fdopen(os.open(path, flags, 0o666), "a", encoding="utf-8")


def read_bytes(path: Path, most: int | None = None) -> bytes:
    """What a file of a run directory holds; a pipe holds nothing.

    Args:
        most: bytes that it may have; of a larger one none is read.

    Raises:
        OSError: it cannot be read; ELOOP where it is a link, whatever that leads to; EFBIG where it is too large.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    with os.fdopen(os.open(path, flags), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if most is not None and size > most:
            raise OSError(errno.EFBIG, f"{size:,} bytes, expected at most {most:,}", str(path))
        return file.read(-1 if most is None else most)
