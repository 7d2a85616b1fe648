"""Clocks: the machine's against the world's, and the disk's against the machine's."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator

from bigrun.doctor.row import Row, judged
from bigrun.doctor.subject import Subject

__all__ = ["clock_rows", "disk_clock_row", "synchronised_row"]

DIFFERENCE_SECONDS = 2.0
TIME_ERROR = 5
"""What adjtimex(2) returns while nobody keeps the clock right."""
TIMEX_BYTES = 512
"""More than `struct timex` has on any platform; zeros ask for nothing to be changed."""


def clock_rows(subject: Subject) -> Iterator[Row]:
    yield synchronised_row(clock_state())
    with subject.scratch() as directory:
        path = directory / "now"
        before = time.time()
        path.touch()
        yield disk_clock_row(path.stat().st_mtime - before)


def clock_state() -> int | None:
    """The answer of adjtimex(2); None where a sandbox refuses it."""
    adjtimex = getattr(ctypes.CDLL(None), "adjtimex", None)
    answer = adjtimex(ctypes.create_string_buffer(TIMEX_BYTES)) if adjtimex else -1
    return None if answer < 0 else int(answer)


def synchronised_row(state: int | None) -> Row:
    name, expected = "clock", "kept right over the network"
    if state is None:
        return Row(name, "info", "the system does not say whether it is kept right")
    found = "not kept right, as far as the kernel knows" if state == TIME_ERROR else "kept right"
    remedy = (
        "timedatectl set-ntp true, or chrony: times in logs of several machines cannot be compared otherwise (in a "
        "virtual machine its host may keep it right, which the kernel does not know)"
    )
    return judged(name, state != TIME_ERROR, found, expected, remedy)


def disk_clock_row(difference_seconds: float) -> Row:
    """How much later than this machine's a new file's time is."""
    good = abs(difference_seconds) <= DIFFERENCE_SECONDS
    remedy = "set the clocks of the file server and of this machine by the same source (NTP)"
    found = f"{difference_seconds:+.3f} s"
    return judged("clock of the disk", good, found, f"within {DIFFERENCE_SECONDS:g} s of the machine's", remedy)
