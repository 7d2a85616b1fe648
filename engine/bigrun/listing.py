"""Tables of installed plugins and shipped presets, read without importing any plugin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import tomli

from bigrun.config import shipped_presets
from bigrun.entry_points import installed

__all__ = ["plugin_rows", "preset_rows", "table"]


def plugin_rows() -> Iterator[tuple[str, ...]]:
    """Name, kind, distribution, version, and the shipped presets in which the plugin is active."""
    active = {name: tomli.loads(file.read_text(encoding="utf-8")) for name, file in shipped_presets().items()}
    for plugin in installed().values():
        users = [name for name, tables in active.items() if plugin.name in tables.get("plugins", {})]
        yield plugin.name, plugin.declared_kind(), plugin.distribution, plugin.version, ", ".join(users) or "-"


def preset_rows() -> Iterator[tuple[str, str]]:
    """Name and first comment line of each shipped preset."""
    for name, file in shipped_presets().items():
        yield name, file.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")


def table(titles: Sequence[str], rows: Iterator[tuple[str, ...]]) -> str:
    """Left-aligned columns."""
    lines = [tuple(titles), *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(titles))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)
