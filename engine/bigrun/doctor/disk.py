"""How fast the disk of a run is, with everything on the disk when it counts as written."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import attrs

from bigrun.checkpoint.space import human_bytes
from bigrun.doctor.row import Row, judged
from bigrun.doctor.subject import Subject

__all__ = ["disk_rows", "judge_sync", "judge_writing", "sync_seconds", "write_and_read"]

BYTES = 256 << 20
QUICK_BYTES = 16 << 20
PIECE_BYTES = 4 << 20
LIMIT_SECONDS = 20.0
"""A disk that takes longer is measured by what it took until then."""
SLOW_BYTES_PER_SECOND = 100e6
"""A checkpoint of a ViT-L, 5.6 GB, takes a minute then, written and read back."""
CHECKPOINT_BYTES = 5.6e9
SYNCS, QUICK_SYNCS = 20, 5
SLOW_SYNC_SECONDS = 0.1
NO_SYNC_SECONDS = 5e-6
"""No disk is so fast: the call returned without asking it."""


@attrs.frozen
class Passage:
    """Bytes that went to the disk and came back."""

    size_bytes: int
    write_seconds: float
    read_seconds: float
    is_same: bool


def disk_rows(subject: Subject) -> Iterator[Row]:
    size = QUICK_BYTES if subject.is_quick else BYTES
    with subject.scratch() as directory:
        room = shutil.disk_usage(directory).free // 2
        passage = write_and_read(directory / "data", min(size, max(room, 1)))
        yield from judge_writing(passage)
        yield judge_sync(sync_seconds(directory / "small", QUICK_SYNCS if subject.is_quick else SYNCS))


def write_and_read(path: Path, size: int) -> Passage:
    """Write `size` bytes that cannot be compressed, sync them, drop them from memory and read them.

    The file loses its name at once: nothing is left of it, however this process ends.
    """
    piece = os.urandom(min(size, PIECE_BYTES))
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        path.unlink()
        written, wrote, began = 0, hashlib.blake2b(), time.monotonic()
        while written < size and time.monotonic() - began < LIMIT_SECONDS:
            chunk = numbered(piece, written)[: size - written]
            written += os.write(descriptor, chunk)
            wrote.update(chunk)
        os.fsync(descriptor)
        write_seconds = time.monotonic() - began
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.lseek(descriptor, 0, os.SEEK_SET)
        read, began = hashlib.blake2b(), time.monotonic()
        while chunk := os.read(descriptor, PIECE_BYTES):
            read.update(chunk)
        return Passage(written, write_seconds, time.monotonic() - began, read.digest() == wrote.digest())
    finally:
        os.close(descriptor)


def numbered(piece: bytes, offset: int) -> bytes:
    """No two pieces are equal: some file systems store equal ones once."""
    return offset.to_bytes(8, "little")[: len(piece)] + piece[8:]


def judge_writing(passage: Passage) -> Iterator[Row]:
    remedy = "bad memory, cable, disk or network: do not train here before it is found (`smartctl -a`, memtest86)"
    found = f"{human_bytes(passage.size_bytes)}" + ("" if passage.is_same else ", not what was written")
    yield judged("disk contents", passage.is_same, found, "what was written", remedy, otherwise="fail")
    for name, seconds in (("disk writing", passage.write_seconds), ("disk reading", passage.read_seconds)):
        speed = passage.size_bytes / max(seconds, 1e-9)
        advice = (
            f"a checkpoint of {human_bytes(CHECKPOINT_BYTES)} takes {CHECKPOINT_BYTES / speed:.0f} s: name a faster "
            "disk with --run-dir, or save less often (run.checkpoint_every_steps); on a busy disk measure again later"
        )
        yield judged(name, speed >= SLOW_BYTES_PER_SECOND, f"{human_bytes(speed)}/s", "100 MB/s", advice,
                     facts={"bytes_per_second": round(speed)})  # fmt: skip


def sync_seconds(path: Path, times: int) -> list[float]:
    """How long fsync(2) of a small change takes, each time; sorted."""
    found = []
    with path.open("wb", buffering=0) as file:
        for number in range(times):
            file.write(number.to_bytes(64, "little"))
            began = time.perf_counter()
            os.fsync(file.fileno())
            found.append(time.perf_counter() - began)
    return sorted(found)


def judge_sync(seconds: list[float]) -> Row:
    """By the median: the first may wait for what others have written."""
    median, longest = seconds[len(seconds) // 2], seconds[-1]
    found, expected = f"{median * 1000:.3g} ms, at most {longest * 1000:.3g} ms", "5 µs to 100 ms"
    facts = {"median_seconds": median, "longest_seconds": longest}
    if median < NO_SYNC_SECONDS:
        remedy = "this disk does not sync, and a power cut loses what it should have: use another one for runs"
        return Row("disk sync", "warn", found, expected, remedy, facts)
    remedy = "each checkpoint and each line of a log waits for that: use a disk that is local, and not a busy one"
    return judged("disk sync", median <= SLOW_SYNC_SECONDS, found, expected, remedy, facts=facts)
