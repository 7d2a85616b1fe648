"""How a command gets at what a data set's source lists, past the index that the data set would use."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

import attrs

from bigrun.data.files.entry import Files

__all__ = ["Source", "sources", "sources_heard"]


@attrs.frozen
class Source:
    """One call of `open_files`: where the files come from."""

    files: Files
    root: Path
    fingerprint: str | None
    """Of the moment before its files were listed."""
    index: Path | None
    follow_links: bool
    channels: int | None


sources_heard: ContextVar[list[Source] | None] = ContextVar("sources_heard", default=None)
"""Where `open_files` reports while `sources` lasts."""


@contextlib.contextmanager
def sources() -> Iterator[list[Source]]:
    """While this lasts `open_files` uses neither index nor packed form, and each of its calls is recorded.

    An index is made of what the source lists; one that is out of date must not be in the way of the next.
    """
    heard: list[Source] = []
    token = sources_heard.set(heard)
    try:
        yield heard
    finally:
        sources_heard.reset(token)
