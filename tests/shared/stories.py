"""Run directories that are made up: a configuration, and lines of logs, as a run leaves them."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tomli_w

from bigrun.lock import LOCK
from bigrun.record.record import RunRecord

__all__ = ["TIMES", "Story", "utc"]

TIMES = {"steps_per_second": 2.0, "images_per_second": 128.0, "data_wait_fraction": 0.01}


def utc(ago_seconds: float = 0.0) -> str:
    return datetime.fromtimestamp(time.time() - ago_seconds, UTC).isoformat(timespec="milliseconds")


class Story:
    """A run that has been told so far; each line is written at once."""

    def __init__(self, directory: Path, **run: Any) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        tables = {"run": {"max_steps": 50_000, "log_every_steps": 10, **run}, "data": {"effective_batch": 64}}
        (directory / "config.toml").write_text(tomli_w.dumps(tables), encoding="utf-8")

    def rows(self, first: int, last: int, ago_seconds: float = 0.0, **values: Any) -> Story:
        """A row of metrics every ten steps."""
        for step in range(first, last + 1, 10):
            self._add("metrics", {"step": step, "loss": 8 - step / 1e5, **TIMES, **values})
        moment = time.time() - ago_seconds
        os.utime(self.directory / "metrics.jsonl", (moment, moment))
        return self

    def event(
        self, kind: str, message: str, step: int, /, level: str = "info", ago_seconds: float = 0.0, **facts: Any
    ) -> Story:
        line = {"kind": kind, "message": message, "step": step, "level": level, "facts": facts}
        self._add("events", line | {"time_utc": utc(ago_seconds)})
        return self

    def started(self, step: int = 0, ago_seconds: float = 0.0) -> Story:
        return self.event("started", f"started after step {step}", step, ago_seconds=ago_seconds)

    def anomaly(self, kind: str, text: str, step: int, /, action: str = "warn", **facts: Any) -> Story:
        """As logs had it in which nothing said when it was over."""
        return self.event("anomaly", f"step {step}: {text}", step, "warning", anomaly=kind, action=action, **facts)

    def lasting(self, kind: str, text: str, step: int, onset: int, *evidence: str, **facts: Any) -> Story:
        """One whose end will be said."""
        values = dict.fromkeys(evidence or ("a",), 0.5)
        told = {"step": step, "onset": onset, "lasts": True, "evidence": values}
        return self.anomaly(kind, f"{text}, since step {onset}", step, **told | facts)

    def over(self, kind: str, since: int, step: int, *evidence: str) -> Story:
        facts = {"anomaly": kind, "since": since, "evidence": list(evidence)}
        return self.event("anomaly-over", f"{kind} is over", step, **facts)

    def flag(self, flag: str, state: str, text: str, step: int, level: str = "warning") -> Story:
        return self.event("telemetry-flag", f"{flag}: {text}", step, level, flag=flag, state=state, seconds=0)

    def telemetry(self, ago_seconds: float = 0.0, **values: Any) -> Story:
        self._add("telemetry", {"time_utc": utc(ago_seconds), **values})
        return self

    def held_elsewhere(self, silent_seconds: float = 0.0) -> Story:
        """A process of another machine trains; its heart beat so long ago."""
        path = self.directory / LOCK
        path.write_text(json.dumps({"host": "elsewhere", "pid": 4711, "started_utc": utc(1e6)}), encoding="utf-8")
        moment = time.time() - silent_seconds
        os.utime(path, (moment, moment))
        return self

    def read(self) -> RunRecord:
        return RunRecord(self.directory)

    def _add(self, name: str, row: dict[str, Any]) -> None:
        with (self.directory / f"{name}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
