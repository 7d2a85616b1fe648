"""Paths and columns of many files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from types import MappingProxyType

import attrs

from bigrun.data.faults import BadImageError
from bigrun.data.files.columns import Column, ColumnBuilder
from bigrun.data.files.entry import Entry
from bigrun.data.files.strings import Strings, StringsBuilder

__all__ = ["FileTable"]


@attrs.frozen(eq=False)
class FileTable:
    """Paths and columns of N files, by number."""

    paths: Strings
    columns: dict[str, Column]
    faults: Mapping[str, BadImageError] = MappingProxyType({})
    """Files that got no number, by path."""

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> FileTable:
        """What a source lists, in its order.

        Raises:
            DataError: a column has text and numbers.
        """
        paths, builders, faults = StringsBuilder(), dict[str, ColumnBuilder](), dict[str, BadImageError]()
        for entry in entries:
            if entry.fault is not None:
                faults[entry.path] = entry.fault
                continue
            for name in entry.columns:
                if name not in builders:
                    builders[name] = ColumnBuilder(name, len(paths.ends))
            for name, builder in builders.items():
                builder.add(entry.columns.get(name), entry.path)
            paths.add(os.fsencode(entry.path))
        return cls(paths.build(), {name: builder.build() for name, builder in builders.items()}, faults)
