"""Disks that refuse: a small file system, a limit on the size of files, a directory that may not be written."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

__all__ = ["file_size_limit", "fill", "small_disk", "unwritable"]

NOBODY = 65534


@contextlib.contextmanager
def small_disk(mount_point: Path, megabytes: int) -> Iterator[Path]:
    """A file system of so many MiB; the test is skipped where this process may not mount one."""
    mount_point.mkdir()
    options = f"size={megabytes}m,mode=755"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(mount_point)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system needs root and permission to mount")
    try:
        yield mount_point
    finally:
        subprocess.run(["umount", "--lazy", str(mount_point)], check=True)


def fill(disk: Path, leave_bytes: int = 0) -> Path:
    """A file that takes the room of a small disk but for so many bytes; remove it to make room."""
    path = disk / "of-somebody-else"
    with path.open("ab", buffering=0) as file:
        piece = bytes(1 << 16)
        while piece:
            try:
                file.write(piece)
            except OSError as error:
                assert error.errno == errno.ENOSPC  # noqa: PT017 - what is to be provoked
                piece = piece[: len(piece) // 2]
        os.ftruncate(file.fileno(), max(0, os.fstat(file.fileno()).st_size - leave_bytes))
    return path


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Files of this process end at so many bytes: what goes beyond is EFBIG (setrlimit(2))."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def unwritable(directory: Path) -> Iterator[None]:
    """Nothing can be made in `directory`: EACCES. Permissions are nothing to root, who is somebody else meanwhile."""
    mode = directory.stat().st_mode
    directory.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        directory.chmod(mode)
