"""A section that a plugin has written: what of it has the right form, and what has not."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard, get_args

import attrs

from bigrun_report.parts import Status

__all__ = ["Curve", "Section", "read_section"]

LINES, ROWS, COLUMNS, CURVES, PICTURES, METRICS, POINTS = 200, 500, 20, 40, 24, 12, 20_000
"""At most so many are shown."""
BAND = ("steps", "low", "high")


@attrs.frozen
class Curve:
    """A chart of metrics."""

    title: str
    metrics: tuple[str, ...]
    unit: str = ""
    scale: str = "linear"
    band: Mapping[str, Sequence[float]] | None = None
    """`steps`, `low`, `high`: where the first of the metrics is expected."""


@attrs.frozen
class Section:
    """What a plugin says of itself."""

    plugin: str
    title: str
    status: Status
    lines: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    curves: tuple[Curve, ...] = ()
    pictures: tuple[tuple[str, str], ...] = ()
    """(path below the run directory, caption)."""
    problems: tuple[str, ...] = ()
    """What was left out of the answer, and why."""

    def as_json(self) -> dict[str, Any]:
        """The answer of which `read_section` makes this again."""
        return {
            "plugin": self.plugin, "title": self.title, "status": self.status, "lines": list(self.lines),
            "table": {"columns": list(self.columns), "rows": [list(row) for row in self.rows]},
            "curves": [attrs.asdict(c, filter=lambda _, value: value is not None) for c in self.curves],
            "pictures": [{"path": path, "caption": caption} for path, caption in self.pictures],
            "problems": list(self.problems),
        }  # fmt: skip


def read_section(plugin: str, answer: Any) -> Section:
    """The parts of an answer that have the right form; the others are named in `problems`, and nothing is raised."""
    try:
        return taken(plugin, answer)
    except (RecursionError, ValueError, TypeError, OverflowError) as error:  # that no text can be made of
        return Section(plugin, plugin, "warn", problems=(f"{plugin}: its section cannot be written down: {error}",))


def taken(plugin: str, answer: Any) -> Section:
    if not isinstance(answer, Mapping):
        wrong = f"{plugin}: expected a section as a mapping, got {type(answer).__name__}"
        return Section(plugin, plugin, "warn", problems=(wrong,))
    reading = Reading(plugin, answer)
    title, status = reading.text("title", plugin), reading.status()
    columns, rows = reading.table()
    section = Section(
        plugin, title, status, reading.lines(), columns, rows, reading.curves(), reading.pictures(),
    )  # fmt: skip
    known = {"title", "status", "lines", "table", "curves", "pictures", "plugin", "problems"}
    unknown = sorted(str(key) for key in answer if key not in known)
    if unknown:
        reading.say("", f"unknown: {', '.join(unknown[:5])}")
    return attrs.evolve(section, problems=tuple(reading.problems))


class Reading:
    """Takes an answer apart."""

    def __init__(self, plugin: str, answer: Mapping[Any, Any]) -> None:
        self.plugin, self.answer = plugin, answer
        before = answer.get("problems", ())
        self.problems = [str(problem) for problem in before][:20] if isinstance(before, list) else []

    def say(self, key: str, wrong: str) -> None:
        if len(self.problems) < 20:
            self.problems.append(f"{self.plugin}: {key and f'{key!r} '}{wrong}")

    def text(self, key: str, otherwise: str) -> str:
        value = self.answer.get(key, otherwise)
        if not isinstance(value, str) or not value.strip():
            self.say(key, f"expected a text, got {value!r:.80}")
            return otherwise
        return value

    def status(self) -> Status:
        value = self.answer.get("status")
        for status in get_args(Status):
            if value == status:
                return status  # type: ignore[no-any-return]
        self.say("status", f"expected ok, warn, fail or none, got {value!r:.80}")
        return "warn"

    def list_of(self, table: Mapping[Any, Any], key: str, most: int, name: str = "") -> list[Any]:
        value = table.get(key)
        if value is None:
            return []
        if not isinstance(value, list | tuple):
            self.say(name or key, f"expected a list, got {type(value).__name__}")
            return []
        if len(value) > most:
            self.say(name or key, f"has {len(value):,} entries; the first {most:,} are shown")
        return list(value[:most])

    def lines(self) -> tuple[str, ...]:
        return tuple(map(worded, self.list_of(self.answer, "lines", LINES)))

    def table(self) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
        table = self.answer.get("table")
        if table is None:
            return (), ()
        if not isinstance(table, Mapping):
            self.say("table", f"expected columns and rows, got {type(table).__name__}")
            return (), ()
        columns = tuple(map(worded, self.list_of(table, "columns", COLUMNS, "table.columns")))
        if not columns and table.get("rows"):
            self.say("table.columns", "expected one or more")
            return (), ()
        rows = []
        for row in self.list_of(table, "rows", ROWS, "table.rows"):
            if isinstance(row, list | tuple) and len(row) == len(columns):
                rows.append(tuple(map(worded, row)))
            else:
                self.say("table.rows", f"expected {len(columns)} cells, got {row!r:.80}")
        return columns, tuple(rows)

    def curves(self) -> tuple[Curve, ...]:
        return tuple(curve for entry in self.list_of(self.answer, "curves", CURVES) if (curve := self.curve(entry)))

    def curve(self, entry: Any) -> Curve | None:
        names = entry.get("metrics") if isinstance(entry, Mapping) else None
        if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) for name in names):
            self.say("curves", f"expected metrics, a list of names, got {entry!r:.80}")
            return None
        scale = entry.get("scale", "linear")
        if scale not in ("linear", "log"):
            self.say("curves", f"scale: expected linear or log, got {scale!r:.40}")
            scale = "linear"
        title, unit = (worded(entry.get(key) or otherwise) for key, otherwise in (("title", names[0]), ("unit", "")))
        return Curve(title, tuple(names[:METRICS]), unit, scale, self.band(entry.get("band")))

    def band(self, band: Any) -> Mapping[str, Sequence[float]] | None:
        if band is None:
            return None
        found = {key: band.get(key) for key in BAND} if isinstance(band, Mapping) else {}
        sides = [[float(v) for v in side] for side in found.values() if is_list_of_numbers(side)]
        if len(sides) != len(BAND) or len({len(side) for side in sides}) != 1:
            self.say("curves", "band: expected steps, low and high, lists of as many numbers")
            return None
        return dict(zip(BAND, sides, strict=True))

    def pictures(self) -> tuple[tuple[str, str], ...]:
        found = []
        for entry in self.list_of(self.answer, "pictures", PICTURES):
            path = entry.get("path") if isinstance(entry, Mapping) else None
            if isinstance(path, str) and path:
                found.append((path, worded(entry.get("caption") or path)))
            else:
                self.say("pictures", f"expected path and caption, got {entry!r:.80}")
        return tuple(found)


def is_list_of_numbers(value: Any) -> TypeGuard[Sequence[float]]:
    return (
        isinstance(value, list | tuple)
        and len(value) <= POINTS
        and all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < 1e300 for v in value)
    )


def worded(value: Any) -> str:
    """A cell or a line as text: a plugin may give a number."""
    return value if isinstance(value, str) else json.dumps(value, default=str)
