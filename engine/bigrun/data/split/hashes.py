"""What files hold, as hashes: from the index, or read."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bigrun.data.faults import BadImageError
from bigrun.data.files.facts import read_file
from bigrun.data.files.paths import locate

if TYPE_CHECKING:
    import numpy.typing as npt

    from bigrun.data.files.entry import Files

__all__ = ["content_hashes"]

PIECE = 64
"""Files that a process reads at a time."""
ADVICE = "after `bigrun data index`, which takes --workers 1, nothing is read for a split"


def content_hashes(files: Files) -> npt.NDArray[np.uint8]:
    """(N, 32) SHA-256 of each file's bytes; all are read where there is no index. One that cannot be read, which no
    run trains on either, has the hash of its path."""
    known = files.hashes()
    if known is not None:
        return known
    from bigrun.parallel import default_workers, in_order
    from bigrun.progress import progress

    digests: list[bytes] = []
    with progress("reading", len(files)) as advance:
        for some in in_order(hash_files, pieces(files), default_workers(len(files)), advice=ADVICE):
            digests += some
            advance(len(some))
    return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 32)


def pieces(files: Files) -> Iterator[tuple[Path, bool, list[str]]]:
    """What `hash_files` is given: the root, whether links out of it are refused, some paths."""
    paths = (files.path(number) for number in range(len(files)))
    while piece := list(itertools.islice(paths, PIECE)):
        yield files.root, getattr(files, "confined", False), piece


def hash_files(piece: tuple[Path, bool, list[str]]) -> list[bytes]:
    """SHA-256 of each file."""
    root, confined, paths = piece
    return [hash_file(root, confined, path) for path in paths]


def hash_file(root: Path, confined: bool, path: str) -> bytes:
    """SHA-256 of a file's bytes; of its path where they cannot be read. Raises OSError where that is not its fault."""
    try:
        contents, _, _ = read_file(locate(root, path, confined=confined))
    except BadImageError:
        contents = b"unreadable\0" + path.encode("utf-8", "surrogatepass")
    return hashlib.sha256(contents or b"").digest()
