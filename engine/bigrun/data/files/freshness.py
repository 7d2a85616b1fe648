"""Whether an index still says what the files are: asked at every start, of the source and of some files."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Collection, Mapping
from pathlib import Path

import attrs

from bigrun.data.files.facts import difference
from bigrun.data.files.left_out import usable_again
from bigrun.data.files.load import lists_the_same, require_axes
from bigrun.data.files.table import FileTable
from bigrun.errors import DataIndexError

__all__ = ["SAMPLE", "Opened"]

SAMPLE = 202
"""Files that are looked at, evenly over all, the first and the last among them; and as many of those left out."""


@attrs.frozen
class Opened:
    """An index, and the data set that it should be of."""

    index: sqlite3.Connection
    meta: Mapping[str, str | None]
    root: Path
    place: Path
    confined: bool
    channels: int | None

    @property
    def command(self) -> str:
        """What has made it."""
        return self.meta["command"] or f"bigrun data index {self.root}"

    def stale(self, why: str) -> DataIndexError:
        """The refusal."""
        return DataIndexError(
            f"{self.place}: the index is out of date: {why}; run `{self.command}` again: it reads only what is new"
        )

    def check(self, listed: FileTable | None) -> None:
        """Compare the index with the source, and with some of the files.

        Args:
            listed: by the source; None where its fingerprint says that this is what it was.

        Raises:
            DataIndexError: the index is out of date, of another source, or for a model of other channels.
        """
        if listed is not None:
            self.check_source(listed)
        advice = f"make it with the preset of this run: `bigrun data index PRESET`, in place of `{self.command}`"
        require_axes(self.index, self.meta, self.channels, self.place, advice)
        self.check_sample()
        self.check_left_out()

    def check_source(self, listed: FileTable) -> None:
        """Raises DataIndexError when the source lists other files, or is not the one that the index was made of: then
        the command that made it would make the same again."""
        known = json.loads(self.meta["columns"] or "[]")
        if not set(listed.columns) <= set(known) or (known and not listed.columns):
            raise DataIndexError(
                f"{self.place}: the index is not of what this run has its files from: it has {named(known)}, and they "
                f"have {named(listed.columns)}. It was made by `{self.command}`, with another table of the files or "
                "without the plugin that reads it; make it with the preset and the plugins of this run: `bigrun data "
                f"index PRESET`, or `bigrun data index {self.root} --plugin NAME`"
            )
        if not lists_the_same(self.index, known, listed):
            raise self.stale(f"the source lists other files than it did on {self.meta['created_utc']}")

    def check_sample(self) -> None:
        """Raises DataIndexError when one of a sample of the files is not what it was.

        A file of the same size and another time is read and compared by its hash: a copy of the data set is the data
        set.
        """
        wrong: dict[str, list[str]] = {}
        files = sample(self.index, int(self.meta["files"] or 0))
        for path, size, mtime_ns, sha256 in files:
            problem = difference(self.root / path, size, mtime_ns, sha256)
            if problem:
                wrong.setdefault(problem, []).append(path)
        if wrong:
            counts = ", ".join(f"{len(paths)} {problem}" for problem, paths in sorted(wrong.items()))
            first = min(path for paths in wrong.values() for path in paths)
            raise self.stale(f"of {len(files)} files that were looked at, {counts} (first: {first})")

    def check_left_out(self) -> None:
        """Raises DataIndexError when files that the index leaves out would not be left out any more."""
        again = usable_again(self.index, self.root, confined=self.confined, channels=self.channels, most=SAMPLE)
        if again:
            raise self.stale(f"{len(again)} files that it leaves out are not as they were (first: {again[0]})")


def named(columns: Collection[str]) -> str:
    return f"the columns {', '.join(sorted(columns))}" if columns else "no columns"


def sample(index: sqlite3.Connection, files: int) -> list[tuple[str, int, int, bytes]]:
    """Path, bytes, mtime and hash of some files."""
    last = max(files - 1, 0)
    chosen = sorted({last * turn // max(SAMPLE - 1, 1) for turn in range(SAMPLE)} if files else ())
    places = ", ".join("?" * len(chosen))
    rows = index.execute(
        f"SELECT CAST(path AS BLOB), bytes, mtime_ns, sha256 FROM files WHERE number IN ({places})", chosen
    )
    return [(os.fsdecode(path), size, mtime_ns, sha256) for path, size, mtime_ns, sha256 in rows]
