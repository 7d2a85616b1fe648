"""What a run has besides curves: checkpoints, its configuration, and what it was made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bigrun.checkpoint.space import human_bytes
from bigrun.links import read_bytes
from bigrun.record.record import RunRecord
from bigrun_report.figures import clock, joined, moment, shortened
from bigrun_report.parts import Part, Table

__all__ = ["checkpoints_part", "options_that_differ", "provenance_part"]

MOST_CHECKPOINTS = 60
MOST_BYTES = 64 * 2**20
"""Of provenance.json: some 20,000 starts."""
MEANINGS = {
    "complete": "complete: all files in their size",
    "foreign": "no checkpoint: ignored",
    "unfinished": "being written, or cleared away at the next start",
}


def checkpoints_part(record: RunRecord) -> Part:
    """The newest checkpoints with their condition; that every byte is right `bigrun checkpoints verify` finds out."""
    title = "Checkpoints"
    entries = record.checkpoints()
    if not entries:
        return Part(title, lines=("There is no checkpoint yet.",))
    rows = []
    for entry in reversed(entries[-MOST_CHECKPOINTS:]):
        is_good = entry.condition in ("verified", "complete")
        health = ", ".join(entry.anomalies) or "healthy" if is_good else ""
        notes = [MEANINGS.get(entry.condition, entry.condition), *entry.problems[:1], *entry.stays]
        size = human_bytes(entry.bytes) if entry.bytes else ""
        loss = entry.measured.get("loss")
        shown = f"{loss:.5g}" if isinstance(loss, int | float) else ""
        saved = clock(moment(entry.created_utc)) if entry.created_utc else ""
        rows.append((shortened(entry.label, 80), saved, size, health, shown, shortened("; ".join(notes), 200)))
    damaged = [entry for entry in entries if entry.condition in ("damaged", "newer")]
    lines = [
        f"{len(entries):,} in {human_bytes(sum(entry.bytes for entry in entries))}. Each was read back and compared "
        "with its hashes before it got its name; here the sizes of its files are compared."
    ]
    if len(entries) > MOST_CHECKPOINTS:
        lines.append(f"the newest {MOST_CHECKPOINTS} are shown")
    if damaged:
        lines.append(f"damaged: {joined([entry.label for entry in damaged])}")
    columns = ("checkpoint", "saved", "size", "health", "loss", "condition")
    status = "fail" if damaged else None
    return Part(title, status, tuple(lines), (Table(columns, tuple(rows)),))  # type: ignore[arg-type]


def provenance_part(record: RunRecord) -> Part:
    """The newest start, all starts in short, and every option."""
    starts, problem = read_starts(record.directory / "provenance.json")
    newest = starts[-1] if starts else {}
    rows = tuple((name, shortened(text)) for name, text in described(newest) if text)
    tables = [Table(("", ""), rows)] if rows else []
    if len(starts) > 1:
        cells = tuple(
            (clock(moment(s.get("time_utc"))), shortened(text(s.get("step")), 20), shortened(hardware(s)))
            for s in starts[-20:]
        )
        tables.append(Table(("started", "after step", "on"), cells))
    options = tuple((name, shortened(repr(value))) for name, value in flat(record.config))
    parts = (Part("Every option", tables=(Table(("option", "value"), options),), is_long=True),)
    return Part("Configuration and provenance", lines=(problem,) if problem else (), tables=tuple(tables), parts=parts)


def read_starts(path: Path) -> tuple[list[Mapping[str, Any]], str]:
    """The starts, and what is wrong with the file."""
    import json

    try:
        starts = json.loads(read_bytes(path, MOST_BYTES))["starts"]
        return [start for start in starts if isinstance(start, dict)], ""
    except FileNotFoundError:
        return [], ""
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return [], f"provenance.json cannot be read: {error}"


def described(start: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "preset", text(start.get("preset"))
    command = start.get("command")
    yield "command", " ".join(map(str, command)) if isinstance(command, list) else ""
    yield "newest start", clock(moment(start["time_utc"])) if "time_utc" in start else ""
    yield "continued from", text(start.get("resumed_from"))
    yield "machine", hardware(start)
    yield "Python", text(start.get("python"))
    packages = table(start, "packages")
    yield "packages", ", ".join(f"{name} {version}" for name, version in packages.items())
    yield "plugins", ", ".join(table(start, "plugins"))
    data = table(start, "data")
    yield "data", f"{data.get('files', '?')} files, sha256 {text(data.get('sha256'))}" if data else ""
    repositories = start.get("repositories")
    for repository in repositories if isinstance(repositories, list) else ():
        if isinstance(repository, dict):
            dirty = ", with changes that are not committed" if repository.get("is_dirty") else ""
            commit = shortened(text(repository.get("commit")), 12)
            yield "repository", f"{text(repository.get('root'))}: {text(repository.get('branch'))} at {commit}{dirty}"


def hardware(start: Mapping[str, Any]) -> str:
    found, facts = table(start, "hardware"), table(table(start, "hardware"), "facts")
    words = [text(facts.get("name") or found.get("device"))]
    words += [f"{found['memory_gib']} GiB"] if "memory_gib" in found else []
    words += [f"driver {found['driver']}"] if found.get("driver") else []
    words += [f"{found['processes']} processes"] if found.get("processes", 1) != 1 else []
    return ", ".join(filter(None, words))


def text(value: Any) -> str:
    return "" if value is None else str(value)


def table(of: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = of.get(key)
    return found if isinstance(found, Mapping) else {}


def flat(tables: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Every option by its path."""
    for key, value in tables.items():
        here = f"{path}.{key}" if path else str(key)
        if isinstance(value, Mapping) and value:
            yield from flat(value, here)
        else:
            yield here, value


def options_that_differ(configs: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Any]]]:
    """The options that are not the same in all configurations; an absent one is None."""
    tables = [dict(flat(config)) for config in configs]
    names = dict.fromkeys(name for table in tables for name in table)
    found = [(name, [table.get(name) for table in tables]) for name in names]
    return [(name, values) for name, values in found if any(value != values[0] for value in values)]
