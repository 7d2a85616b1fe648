"""What this process lacks when the system refuses it files or memory, and what to do."""

from __future__ import annotations

import errno
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from bigrun.data.formats.opening import is_of_machine
from bigrun.errors import BigrunError, UsageError

__all__ = ["describe_shortage", "refuse_long_sockets", "shortages_told", "too_many_files"]


@contextmanager
def shortages_told(advice: str) -> Iterator[None]:
    """Turn an error that is no file's fault, and no disk's, into one message.

    Args:
        advice: what to do, beside what is said for such an error anyway.

    Raises:
        BigrunError: instead of it.
    """
    try:
        yield
    except (OSError, MemoryError) as error:
        refuse_long_sockets(error)
        if not is_of_machine(error):
            raise
        raise BigrunError("; ".join(filter(None, (describe_shortage(error), advice)))) from error


def describe_shortage(error: OSError | MemoryError) -> str:
    """What is lacking, and what to do about it."""
    if isinstance(error, OSError) and error.errno == errno.EMFILE:
        return too_many_files()
    return f"the system has no more memory or open files for this process ({type(error).__name__}: {error})"


def refuse_long_sockets(error: BaseException) -> None:
    """To be called with what starting a process has raised; returns when it was something else.

    Raises:
        UsageError: the folder for temporary files has too long a path: `sun_path` of a socket's address has 108 bytes
            (`unix(7)`), and multiprocessing takes 35 of them for a folder and a name of its own.
    """
    if isinstance(error, OSError) and "AF_UNIX path too long" in str(error):
        folder = tempfile.gettempdir()
        raise UsageError(
            "no process can be started to work for this one: their sockets are in the folder for temporary files, "
            f"{folder}, whose path of {len(folder.encode())} bytes is too long for that (about 70 are possible): set "
            "TMPDIR to a shorter one, as TMPDIR=/tmp"
        ) from error


def too_many_files() -> str:
    """For a process that may open no more files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return f"this process may open no more than {soft} files at a time: raise that with `ulimit -n` (up to {hard})"
