"""What indexing has found, for people and for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from bigrun.checkpoint.space import human_bytes

__all__ = ["IndexReport"]

SHOWN = 3
"""Files or groups that are named; the others are counted."""


@attrs.frozen
class Changes:
    """Files since the index before, by path and content."""

    added: int
    changed: int
    lost: int
    kept: int


@attrs.frozen
class IndexReport:
    """What an index holds and what is new in it."""

    root: Path
    index: Path
    files: int
    """Samples: files without a fault."""
    bytes: int
    kinds: Sequence[tuple[int, str, int]]
    """(channels, dtype, files), the most frequent first."""
    faults: Sequence[tuple[str, str, str]]
    """(path, cause, message)"""
    duplicates: Sequence[Sequence[str]]
    """Groups of paths with the same content."""
    changes: Changes | None
    """None without an index before."""
    content_hash: str
    seconds: float

    def lines(self) -> Iterator[str]:
        """For a terminal."""
        kinds = ", ".join(f"{files:,} with {channels} x {dtype}" for channels, dtype, files in self.kinds)
        yield f"files        {self.files:,}, {human_bytes(self.bytes)}: {kinds or 'none'}"
        if self.changes:
            c = self.changes
            yield f"changes      {c.added:,} added, {c.changed:,} changed, {c.lost:,} lost, {c.kept:,} as before"
        yield from self.fault_lines()
        yield from self.duplicate_lines()
        yield f"content      {self.content_hash}"
        rate = self.files / max(self.seconds, 1e-9)
        size = human_bytes(self.index.stat().st_size)
        yield f"written      {self.index} ({size}) in {self.seconds:.1f} s, {rate:,.0f} files/s"

    def fault_lines(self) -> Iterator[str]:
        if not self.faults:
            yield "faults       none"
            return
        counts = Counter(cause for _, cause, _ in self.faults)
        causes = ", ".join(f"{count:,} {cause}" for cause, count in sorted(counts.items()))
        yield f"faults       left out: {causes}"
        yield from (f"             {path}: {message}" for path, _, message in self.faults[:SHOWN])
        yield from more(len(self.faults))

    def duplicate_lines(self) -> Iterator[str]:
        extra = sum(len(group) - 1 for group in self.duplicates)
        yield f"duplicates   {extra:,} in {len(self.duplicates):,} groups of files with the same content"
        yield from (f"             {' = '.join(named(group))}" for group in self.duplicates[:SHOWN])
        yield from more(len(self.duplicates))

    def as_json(self) -> dict[str, Any]:
        """Everything, every fault and every group of duplicates included."""
        return {
            "root": str(self.root),
            "index": str(self.index),
            "files": self.files,
            "bytes": self.bytes,
            "kinds": [{"channels": c, "dtype": d, "files": n} for c, d, n in self.kinds],
            "faults": [{"path": path, "cause": cause, "message": message} for path, cause, message in self.faults],
            "duplicates": [list(group) for group in self.duplicates],
            "changes": attrs.asdict(self.changes) if self.changes else None,
            "content_sha256": self.content_hash,
            "seconds": round(self.seconds, 3),
        }


def named(group: Sequence[str]) -> list[str]:
    return [*group[:SHOWN], *(["..."] if len(group) > SHOWN else [])]


def more(count: int) -> Iterator[str]:
    if count > SHOWN:
        yield f"             and {count - SHOWN:,} more; --json lists all"
