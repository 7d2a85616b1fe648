"""Whether a packed form is what was packed: every image against its hash."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import attrs

from bigrun.checkpoint.disk import hash_file
from bigrun.data.files.schema import connect_read_only
from bigrun.data.pack.marker import TABLES, read_marker
from bigrun.data.pack.shards import DTYPE_BYTES, HEADER, shard_name
from bigrun.errors import DataIndexError
from bigrun.parallel import in_order

__all__ = ["require_verified", "verify_pack"]

PORTION_IMAGES = 64


@attrs.frozen
class Stored:
    """Where an image lies, and the hash of its pixels."""

    path: str
    shard: int
    start: int
    size: int
    sha256: bytes


@attrs.frozen
class Portion:
    """Images that one process reads."""

    root: Path
    images: Sequence[Stored]


def verify_pack(root: Path, workers: int, advance: Callable[[int], None] = lambda images: None) -> int:
    """Read every byte of a packed form and compare it with its hash; returns the number of images.

    Raises:
        DataIndexError: something is missing, or not what was written.
    """
    marker = read_marker(root)
    if hash_file(root / TABLES) != marker["tables"]["sha256"]:
        raise DataIndexError(f"{root / TABLES}: is not what was written; pack the data set again, into another folder")
    return require_verified(root, workers, advance)


def require_verified(root: Path, workers: int, advance: Callable[[int], None]) -> int:
    """Compare the pixels of every image with their hash; returns the number of images.

    Raises:
        DataIndexError: they are something else.
    """
    images, wrong = 0, list[str]()
    with closing(connect_read_only(root / TABLES)) as tables:
        for count, bad in in_order(check_portion, portions(root, tables), workers):
            images += count
            wrong += bad
            advance(count)
    if wrong:
        raise DataIndexError(
            f"{root}: {len(wrong):,} of {images:,} images are not what was written (first: {wrong[0]}); is the disk "
            "good? Remove the folder and pack again"
        )
    return images


def portions(root: Path, tables: sqlite3.Connection) -> Iterator[Portion]:
    query = (
        f"SELECT CAST(path AS BLOB), shard, start, channels * height * width * {DTYPE_BYTES}, pixels_sha256 FROM files "
        "WHERE shard IS NOT NULL ORDER BY row"
    )
    rows = tables.execute(query)
    while some := rows.fetchmany(PORTION_IMAGES):
        yield Portion(root, [Stored(os.fsdecode(path), *rest) for path, *rest in some])


def check_portion(portion: Portion) -> tuple[int, list[str]]:
    """The number of images, and the paths of those that are not what was written."""
    wrong: list[str] = []
    for image in portion.images:
        with (portion.root / shard_name(image.shard)).open("rb", buffering=0) as file:
            pixels = os.pread(file.fileno(), image.size, HEADER + image.start)
        if hashlib.sha256(pixels).digest() != image.sha256:
            wrong.append(image.path)
    return len(portion.images), wrong
