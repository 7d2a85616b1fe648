"""What packing has done, for people and for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs

from bigrun.checkpoint.space import human_bytes
from bigrun.data.files.index_file import faults
from bigrun.data.files.schema import connect_read_only
from bigrun.data.pack.marker import TABLES, read_marker

__all__ = ["PackReport"]

SHOWN = 3


@attrs.frozen
class PackReport:
    """A complete packed form."""

    folder: Path
    files: int
    bytes: int
    """Of all its files."""
    shards: int
    faults: Sequence[tuple[str, str, str]]
    """(path, cause, message) of files whose pixels are not in it."""
    content_hash: str
    seconds: float

    @classmethod
    def of(cls, folder: Path, seconds: float) -> PackReport:
        """What the folder says of itself. Raises DataIndexError."""
        marker = read_marker(folder)
        with closing(connect_read_only(folder / TABLES)) as tables:
            bad = faults(tables)
        size = marker["tables"]["bytes"] + sum(shard["bytes"] for shard in marker["shards"])
        return cls(folder, marker["files"], size, len(marker["shards"]), bad, marker["content_sha256"], seconds)

    def lines(self) -> Iterator[str]:
        """For a terminal."""
        yield f"files        {self.files:,}, {human_bytes(self.bytes)} in {self.shards:,} shards"
        if self.faults:
            counts = Counter(cause for _, cause, _ in self.faults)
            causes = ", ".join(f"{count:,} {cause}" for cause, count in sorted(counts.items()))
            yield f"faults       without pixels: {causes}"
            yield from (f"             {path}: {message}" for path, _, message in self.faults[:SHOWN])
            if len(self.faults) > SHOWN:
                yield f"             and {len(self.faults) - SHOWN:,} more; --json lists all"
        yield f"content      {self.content_hash}"
        yield f"written      {self.folder} in {self.seconds:.1f} s; every image was read back and is what was decoded"
        yield f"to train     --set data.path={self.folder}"

    def as_json(self) -> dict[str, Any]:
        """Everything, every fault included."""
        return {
            "folder": str(self.folder),
            "files": self.files,
            "bytes": self.bytes,
            "shards": self.shards,
            "faults": [{"path": path, "cause": cause, "message": message} for path, cause, message in self.faults],
            "content_sha256": self.content_hash,
            "seconds": round(self.seconds, 3),
        }
