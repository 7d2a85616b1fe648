"""What was found, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bigrun.doctor.row import Row, worst
from bigrun.doctor.subject import Subject
from bigrun.version import __version__

__all__ = ["lines", "summary", "to_json"]

NAME_WIDTH = 26


def lines(row: Row) -> Iterator[str]:
    """A row, and below it what to do."""
    expected = f"  (expected {row.expected})" if row.expected else ""
    yield f"{row.verdict:<5} {row.name:<{NAME_WIDTH}} {row.found}{expected}"
    if row.remedy:
        yield f"{'':5} {'':{NAME_WIDTH}} -> {row.remedy}"


def summary(rows: list[Row], seconds: float) -> str:
    """One line: how many of each verdict."""
    count = {verdict: sum(row.verdict == verdict for row in rows) for verdict in ("ok", "warn", "fail")}
    text = f"{count['ok']} ok, {count['warn']} to look at, {count['fail']} failed; {seconds:.1f} s"
    return f"{worst(rows):<5} {'all':<{NAME_WIDTH}} {text}"


def to_json(subject: Subject, rows: list[Row], seconds: float) -> dict[str, Any]:
    """One object: `bigrun` (version), `run_dir`, `device` (as asked for), `quick`, `verdict` (the worst), `seconds`,
    and `rows`, each with the attributes of `Row`."""
    return {
        "bigrun": __version__,
        "run_dir": str(subject.run_dir),
        "device": subject.wish,
        "quick": subject.is_quick,
        "verdict": worst(rows),
        "seconds": round(seconds, 2),
        "rows": [row.as_facts() for row in rows],
    }
