"""What a checkpoint needs of a disk, done as a save does it: written, synced, read back, given its name."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

from bigrun.checkpoint.disk import hash_file, sync, sync_directory, write
from bigrun.doctor.row import Row, judged
from bigrun.doctor.subject import Subject

__all__ = ["publish_row", "replace_row", "saving_rows", "torn_reads"]

REPLACEMENTS = 200
DRILL = "do not save runs here; name another disk with --run-dir (`bigrun drill --dir` proves one)"


def saving_rows(subject: Subject) -> Iterator[Row]:
    with subject.scratch() as directory:
        yield publish_row(directory)
        yield replace_row(directory)
        yield aside_row(directory)


def publish_row(directory: Path) -> Row:
    """A directory of synced files gets its final name, and holds what was written."""
    temporary, final = directory / ".tmp", directory / "step-00000001"
    temporary.mkdir()
    chunks = [os.urandom(1 << 20)]
    record = write(temporary / "tensors", chunks)
    sync(temporary)
    temporary.rename(final)
    sync_directory(directory)
    good = not temporary.exists() and hash_file(final / "tensors") == record.sha256
    found = "written, synced, renamed, read back" if good else "not what was written"
    return judged("checkpoint", good, found, "the same bytes under the new name", DRILL, otherwise="fail")


def replace_row(directory: Path) -> Row:
    """A file that replaces another is the old or the new one, whoever looks when."""
    reads, torn = torn_reads(directory / "record.json", REPLACEMENTS)
    found = f"{REPLACEMENTS} times, {torn} of {reads} looks saw neither" if torn else f"{REPLACEMENTS} times, no gap"
    return judged("replacing a file", torn == 0, found, "old or new, never neither", DRILL, otherwise="fail")


def torn_reads(path: Path, times: int) -> tuple[int, int]:
    """Replace a file while somebody reads it; returns how often it was read, and how often it was not whole."""
    size, over = 4096, threading.Event()
    path.write_bytes(bytes(size))
    counts = [0, 0]

    def look() -> None:
        while not over.is_set():
            try:
                text = path.read_bytes()
                whole = len(text) == size and len(set(text)) == 1
            except OSError:
                whole = False
            counts[0] += 1
            counts[1] += not whole

    reader = threading.Thread(target=look)
    reader.start()
    try:
        for number in range(times):
            new = path.with_suffix(".new")
            new.write_bytes(bytes([number % 256]) * size)
            new.replace(path)
    finally:
        over.set()
        reader.join()
    return counts[0], counts[1]


def aside_row(directory: Path) -> Row:
    """An older checkpoint of the same step is renamed, with its files, before the new one takes its name."""
    old, new = directory / "step-00000002", directory / "step-new"
    for path in (old, new):
        path.mkdir()
        (path / "name").write_text(path.name, encoding="utf-8")
    aside = directory / ".trash-step-00000002"
    old.rename(aside)
    new.rename(old)
    sync_directory(directory)
    texts = [(path / "name").read_text(encoding="utf-8") for path in (aside, old)]
    good = texts == ["step-00000002", "step-new"]
    found = "both are whole" if good else f"holds {texts}"
    return judged("replacing a directory", good, found, "old and new side by side", DRILL, otherwise="fail")
