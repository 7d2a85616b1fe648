"""A run as one row of a list."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from bigrun.errors import UsageError
from bigrun.listing import table
from bigrun.record.record import RunRecord
from bigrun.record.verdict import verdict
from bigrun.record.words import duration
from bigrun_watch.sections import read_sections

__all__ = ["Row", "table_of"]

TITLES = ("run", "status", "step", "of", "loss", "images/s", "last sign of life", "verdict")


@attrs.frozen
class Row:
    """How one run stands; None is not known."""

    run: str
    status: str
    """One of the states of `bigrun.record.status`, or `unreadable`."""
    level: str
    verdict: str
    reason: str = ""
    step: int | None = None
    max_steps: int | None = None
    loss: float | None = None
    images_per_second: float | None = None
    silent_seconds: float | None = None
    seconds_left: float | None = None

    @classmethod
    def of(cls, path: Path) -> Row:
        """What the run's files say; that they cannot be read, where they cannot: whatever is wrong with one run, the
        others are listed."""
        try:
            return cls.read(path)
        except UsageError as error:
            return cls(str(path), "unreadable", "look", str(error))
        except Exception as error:
            return cls(str(path), "unreadable", "look", f"cannot be read: {type(error).__name__}: {error}")

    @classmethod
    def read(cls, path: Path) -> Row:
        record = RunRecord(path)
        status, found = record.status, verdict(record, read_sections(path))
        return cls(
            str(path), status.state, found.level, found.headline, status.reason, record.step, record.max_steps,
            record.newest("loss"), record.pace.images_per_second, record.silent_seconds, record.seconds_left,
        )  # fmt: skip

    def facts(self) -> dict[str, Any]:
        """The row as JSON; what is not known is not in it."""
        return {name: value for name, value in attrs.asdict(self).items() if value is not None}

    def cells(self) -> tuple[str, ...]:
        silent = "-" if self.silent_seconds is None else f"{duration(self.silent_seconds)} ago"
        step, last = (known(value, ",") for value in (self.step, self.max_steps))
        figures = (known(self.loss, ".4g"), known(self.images_per_second, ".4g"))
        return tuple(
            " ".join(cell.split()) for cell in (self.run, self.status, step, last, *figures, silent, self.verdict)
        )


def known(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def table_of(rows: Sequence[Row]) -> list[str]:
    return table(TITLES, (row.cells() for row in rows)).splitlines()
