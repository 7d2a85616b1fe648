"""Disks that refuse: a small file system, a limit on the size of files, what may not be written or read."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

__all__ = ["file_size_limit", "fill", "small_disk", "unreadable", "unwritable"]

NOBODY = 65534
CAPABILITIES = 0x20080522
"""Version 3 of the kernel's structure: two words of each set, of this thread."""
READS_ALL = 1 << 1 | 1 << 2
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: what makes permissions nothing to root."""


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


@contextlib.contextmanager
def unreadable(path: Path, mode: int = 0) -> Iterator[None]:
    """A file or folder may not be read: EACCES, for root too, who loses the right to read everything meanwhile."""
    before = path.stat().st_mode
    path.chmod(mode)
    try:
        with obeying_permissions():
            yield
    finally:
        path.chmod(before)


@contextlib.contextmanager
def obeying_permissions() -> Iterator[None]:
    """This thread may read and write what the permissions of files say, also where it is root's."""
    header = (ctypes.c_uint32 * 2)(CAPABILITIES, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable of the lower 32; then of the upper
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capget(header, sets) != 0:
        pytest.skip("the capabilities of this process cannot be asked")
    effective = sets[0]
    sets[0] = effective & ~READS_ALL
    assert libc.capset(header, sets) == 0
    try:
        yield
    finally:
        sets[0] = effective
        assert libc.capset(header, sets) == 0
