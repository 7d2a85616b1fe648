"""Whether the disk has room for a packed form, asked before it is begun."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from bigrun.checkpoint.space import RESERVE_BYTES, free_bytes, human_bytes
from bigrun.data.faults import BadImageError
from bigrun.data.files.indexed import IndexedFiles
from bigrun.data.files.listed import ListedFiles
from bigrun.data.files.schema import connect_read_only
from bigrun.data.pack.shards import ALIGNMENT, DTYPE_BYTES, padded
from bigrun.errors import DataIndexError

__all__ = ["expected_bytes", "require_room"]

SAMPLE = 32
"""Images that are decoded where no index knows the sizes."""
ROW_BYTES = 400
"""Of a file in the tables: an index took 124 with paths of 41 characters; a hash is added, and a path may be long."""


def require_room(files: ListedFiles, out: Path, already: int) -> None:
    """Raises: DataIndexError when the disk has less room than the rest of the packed form takes."""
    needed = max(expected_bytes(files) - already, 0)
    free = free_bytes(out)
    if free < needed + RESERVE_BYTES:
        estimate = "" if isinstance(files, IndexedFiles) else "about "
        raise DataIndexError(
            f"{out}: packed, the {len(files):,} files take {estimate}{human_bytes(needed)}, and the disk has "
            f"{human_bytes(free)} left; choose another disk"
        )


def expected_bytes(files: ListedFiles) -> int:
    """Bytes of the packed form: from the index exactly, else from a sample that is decoded."""
    rows = len(files) * ROW_BYTES
    if isinstance(files, IndexedFiles):
        size = f"(channels * height * width * {DTYPE_BYTES} + {ALIGNMENT - 1}) / {ALIGNMENT} * {ALIGNMENT}"
        query = f"SELECT coalesce(sum({size}), 0) FROM files WHERE number IS NOT NULL"
        with closing(connect_read_only(files.index)) as index:
            return int(index.execute(query).fetchone()[0]) + rows
    sizes = []
    for turn in range(min(SAMPLE, len(files))):
        try:
            image = files[len(files) * turn // min(SAMPLE, len(files))]
        except BadImageError:
            continue
        sizes.append(padded(image.numel() * image.element_size()))
    return (sum(sizes) * len(files) // len(sizes) if sizes else 0) + rows
