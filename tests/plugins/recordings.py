"""Curves that `benchmarks/record_curves.py` has recorded, and how a guard sees them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import attrs
import numpy as np
import tomli

from bigrun.activation import activate
from bigrun.anomaly import Anomaly
from bigrun.config import Config, Document
from bigrun.evaluation.facts import Facts
from bigrun_guard.config import GuardConfig
from bigrun_guard.guard import NORM, Guard

__all__ = ["RECORDINGS", "Curves", "watch"]

RECORDINGS = sorted((Path(__file__).parent / "curves").glob("*.npz"))
Row = Mapping[str, float]


@attrs.frozen
class Curves:
    """A run: its configuration, the numbers of every step, and the rows of metrics by step."""

    config: Config
    steps: list[dict[str, float]]
    rows: dict[int, dict[str, float]]

    @classmethod
    def read(cls, path: Path) -> Curves:
        arrays = np.load(path)
        steps, rows = ([dict(zip(arrays[f"{k}_names"].tolist(), row.tolist(), strict=True)) for row in arrays[k]]
                       for k in ("steps", "rows"))  # fmt: skip
        tables = tomli.loads(str(arrays["config"]))
        config, _ = activate(Document(path.name, path.stem, {**tables, "plugins": {}}))
        return cls(config, steps, {int(row["step"]): row for row in rows})


def watch(
    curves: Curves, config: GuardConfig | None = None, disturb: Callable[[int, Row], Row] = lambda step, row: row
) -> list[Anomaly]:
    """What a guard says of curves, from their first step to their last; a step with an anomaly is skipped.

    `disturb` may change the numbers of a step.
    """
    guard = Guard(config or GuardConfig(), Facts.of(curves.config))
    modules = {name.removeprefix(NORM) for name in curves.steps[0] if name.startswith(NORM)}
    found: list[Anomaly] = []
    for row in curves.steps:
        step = int(row["step"])
        said = list(guard.before_update(step, disturb(step, row)))
        if not said:
            said += guard.after_update(step, modules)
        if step in curves.rows:
            said += guard.on_metrics(step, curves.rows[step])
        for anomaly in said:
            guard.answer(anomaly.kind, anomaly.step)
        found += said
    return found
