"""Run directories as a run leaves them, without a run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["event", "make_run", "rows_of"]

CONFIG = """
[run]
max_steps = {max_steps}
[data]
effective_batch = 64
[optimizer]
base_lr = {lr}
[plugins.metrics-log]
"""


def rows_of(count: int, every: int = 10) -> list[dict[str, Any]]:
    """A loss that falls, with a term, a schedule and the speed."""
    return [
        {
            "step": every * n,
            "learning_rate": 1e-3 * n / count,
            "loss/ibot": 2 + math.exp(-3 * n / count),
            "loss": 5 + 4 * math.exp(-3 * n / count),
            "grad_norm": 2.0,
            "steps_per_second": 2.0,
            "images_per_second": 128.0,
            "data_wait_fraction": 0.01,
        }
        for n in range(1, count + 1)
    ]


def event(kind: str, step: int, message: str = "", level: str = "info", **facts: Any) -> dict[str, Any]:
    return {
        "kind": kind, "message": message or kind, "step": step, "level": level, "facts": facts,
        "time_utc": "2026-11-29T20:00:00.000+00:00",
    }  # fmt: skip


def make_run(
    directory: Path,
    rows: Sequence[Mapping[str, Any]] = (),
    events: Sequence[Mapping[str, Any]] = (),
    telemetry: Sequence[Mapping[str, Any]] = (),
    *,
    max_steps: int = 1000,
    lr: float = 1e-3,
) -> Path:
    """Write the files that are not empty; returns the directory."""
    directory.mkdir(parents=True)
    (directory / "config.toml").write_text(CONFIG.format(max_steps=max_steps, lr=lr))
    for name, lines in (("metrics", rows), ("events", events), ("telemetry", telemetry)):
        if lines:
            (directory / f"{name}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return directory
