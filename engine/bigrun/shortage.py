"""What this process lacks when the system refuses it files or memory, and what to do."""

from __future__ import annotations

import errno
import resource
from collections.abc import Iterator
from contextlib import contextmanager

from bigrun.data.formats.opening import is_of_machine
from bigrun.errors import BigrunError

__all__ = ["describe_shortage", "shortages_told", "too_many_files"]


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
        if not is_of_machine(error):
            raise
        raise BigrunError("; ".join(filter(None, (describe_shortage(error), advice)))) from error


def describe_shortage(error: OSError | MemoryError) -> str:
    """What is lacking, and what to do about it."""
    if isinstance(error, OSError) and error.errno == errno.EMFILE:
        return too_many_files()
    return f"the system has no more memory or open files for this process ({type(error).__name__}: {error})"


def too_many_files() -> str:
    """For a process that may open no more files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return f"this process may open no more than {soft} files at a time: raise that with `ulimit -n` (up to {hard})"
