"""Gradient norms of the modules, against what they usually are."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any

__all__ = ["GRADIENT", "Norms"]

NORM, GRADIENT = "grad_norm/", "gradient_factor/"
ROWS, ENOUGH = 100, 10


class Norms:
    """The last rows of metrics, means over `run.log_every_steps` steps. Its state is JSON."""

    def __init__(self) -> None:
        self._rows: dict[str, list[float]] = {}
        self._fresh = 0
        """Rows since the last look."""

    def add(self, metrics: Mapping[str, float]) -> None:
        """A row of metrics."""
        for name, value in metrics.items():
            if name.startswith(NORM) and math.isfinite(value):
                self._rows[name] = [*self._rows.get(name, ()), value][-ROWS:]
        self._fresh += 1

    def take(self) -> dict[str, float]:
        """`gradient_factor/MODULE`: the largest row since the last look over the median of all; absent for a module
        that does not learn, or of which little is known."""
        fresh, self._fresh = min(self._fresh, ROWS), 0
        found = {}
        for name, rows in self._rows.items():
            median = statistics.median(rows)
            if fresh and len(rows) >= ENOUGH and median > 0:
                found[GRADIENT + name.removeprefix(NORM)] = max(rows[-fresh:]) / median
        return found

    def state_dict(self) -> dict[str, Any]:
        return {"rows": {name: list(rows) for name, rows in self._rows.items()}, "fresh": self._fresh}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._rows = {name: list(rows) for name, rows in state["rows"].items()}
        self._fresh = state["fresh"]
