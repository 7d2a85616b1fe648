"""The lock of a run directory: that it keeps another process out, and is free when its holder was killed."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bigrun.doctor.row import Row, judged
from bigrun.doctor.subject import Subject

__all__ = ["is_free", "lock_rows"]

PATIENCE_SECONDS = 5.0
HOLDER = """
import fcntl, os, sys, time
descriptor = os.open(sys.argv[1], os.O_RDWR)
fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
print("held", flush=True)
time.sleep(60)
"""
"""Another process that takes the lock as `bigrun.lock` does."""


def lock_rows(subject: Subject) -> Iterator[Row]:
    with subject.scratch() as directory:
        yield lock_row(directory / "run.lock")


def lock_row(path: Path) -> Row:
    name, expected = "run lock", "one holder at a time, none after kill -9"
    remedy = (
        "two runs could write to one directory here: use a local disk, or mount the network's with locks (NFS: without "
        "`nolock`; Lustre: with `flock`)"
    )
    path.touch()
    try:
        is_free(path)
    except OSError as error:
        return Row(name, "fail", f"no lock to be had: {error.strerror}", expected, remedy)
    command = [sys.executable, "-I", "-S", "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as holder:
        assert holder.stdout is not None
        took = holder.stdout.readline().strip() == b"held"
        kept_out = not is_free(path)
        holder.kill()
    freed = becomes_free(path)
    found = "; ".join(
        text for text, holds in (("another process could not take it", not took), ("it does not keep others out", not
                                 kept_out), ("it outlives its holder", not freed)) if holds
    )  # fmt: skip
    return judged(name, not found, found or "as expected", expected, remedy, otherwise="fail")


def is_free(path: Path) -> bool:
    """Whether the lock can be taken now; it is given back.

    Raises:
        OSError: the file system has no locks.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    finally:
        os.close(descriptor)
    return True


def becomes_free(path: Path) -> bool:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_free(path):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
