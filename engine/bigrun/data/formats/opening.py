"""Opening what should be a file of an image, and may be anything."""

from __future__ import annotations

import errno
import os
import stat
from typing import BinaryIO

from bigrun.data.faults import BadImageError

__all__ = ["fault_of_system", "is_of_machine", "open_regular"]

MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a pipe (FIFO)"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_regular(path: str) -> BinaryIO:
    """Open a regular file for reading; never waits for the other end of a pipe.

    It is looked at before it is opened, since opening a device may do something, and afterwards, since it may have been
    exchanged in between.

    Raises:
        BadImageError: "missing", "not-a-file" or "unreadable".
        OSError: this process may open no more files, or has no memory: no file's fault.
    """
    try:
        require_regular(path, os.stat(path))  # noqa: PTH116 - pathlib costs 5 us more per file
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError:
        raise BadImageError(path, "missing", "no file can have this name: it contains a NUL character") from None
    except OSError as error:
        raise fault_of_system(path, error) from error
    file = open(path, "rb", opener=lambda *_: descriptor)  # noqa: SIM115 - tifffile asks for its name
    try:
        require_regular(path, os.fstat(descriptor))
    except BaseException:
        file.close()
        raise
    return file


def require_regular(path: str, status: os.stat_result) -> None:
    for is_kind, name in KINDS:
        if is_kind(status.st_mode):
            raise BadImageError(path, "not-a-file", f"{name}, expected a file")


def is_of_machine(error: BaseException) -> bool:
    """Whether this process lacks something that every file needs."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in MACHINE)


def fault_of_system(path: str, error: OSError) -> BadImageError:
    """What the operating system's refusal means. Raises the error itself where it is no fault of the file's."""
    if is_of_machine(error):
        raise error
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
        if os.path.islink(path):  # noqa: PTH114
            return BadImageError(path, "missing", f"a symbolic link to {os.readlink(path)}, which is not there")  # noqa: PTH115
        return BadImageError(path, "missing", "no such file (any more)")
    if error.errno == errno.ELOOP:
        return BadImageError(path, "missing", "a symbolic link that leads back to itself")
    if error.errno in (errno.ENXIO, errno.EISDIR):
        return BadImageError(path, "not-a-file", f"not a file ({error.strerror})")
    return BadImageError(path, "unreadable", f"cannot be read ({error.strerror or error})")
