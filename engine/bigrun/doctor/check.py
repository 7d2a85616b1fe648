"""One part of the examination, which fails alone."""

from __future__ import annotations

import errno
import importlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import attrs

from bigrun.doctor.row import Row
from bigrun.doctor.subject import Subject

__all__ = ["REMEDIES", "Check", "rows_of"]

REPORT = "if nothing on this machine explains it, this is an error of bigrun: report it with the output of --json"
REMEDIES = {
    errno.ENOSPC: "make room on the disk, or name another one with --run-dir",
    errno.EDQUOT: "make room within your quota on this disk, or name another one with --run-dir",
    errno.EACCES: "change the permissions of the directory, or name another one with --run-dir",
    errno.EPERM: "change the permissions of the directory, or name another one with --run-dir",
    errno.EROFS: "mount the disk for writing, or name another one with --run-dir",
    errno.EIO: "the disk reports errors: look into `dmesg`, and do not train on it",
}


@attrs.frozen
class Check:
    """A function that yields rows of a subject."""

    name: str
    target: str
    """`module:function`, imported when it runs."""
    needs: str | None = None
    """`device` or `disk`: without one the check is left out."""
    in_quick: bool = True
    limit_seconds: float = 60.0
    """A check that takes longer hangs."""

    def function(self) -> Callable[[Subject], Iterable[Row]]:
        module, _, name = self.target.partition(":")
        found: Any = getattr(importlib.import_module(module), name)
        return found  # type: ignore[no-any-return]


def rows_of(check: Check, subject: Subject) -> Iterator[Row]:
    """The rows of a check; what it raises is one of them."""
    if check.needs and subject.obstacle(check.needs):
        yield Row(check.name, "info", f"left out: there is no {check.needs} to examine")
        return
    try:
        yield from check.function()(subject)
    except Exception as error:
        yield failure(check, error)


def failure(check: Check, error: Exception) -> Row:
    remedy = REPORT
    if isinstance(error, OSError):
        remedy = REMEDIES.get(error.errno or 0, REPORT)
    elif isinstance(error, ImportError):
        remedy = "install what is missing: the lines on versions say what is needed"
    text = f"{type(error).__name__}: {error}".strip().splitlines()[0]
    return Row(check.name, "fail", text, "an answer", remedy)
