"""What a script expects of a checkpoint: the least value of a probe."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from bigrun.errors import UsageError
from bigrun.values import did_you_mean
from bigrun_probes.health import TITLES

__all__ = ["Threshold", "judged", "parsed"]

PREFIX = "probe/"
SHORT = {
    "knn": "knn_accuracy",
    "linear": "linear_accuracy",
    "retrieval": "retrieval_top1",
    "dense": "dense_miou",
}
"""What the name of a probe alone means."""


@attrs.frozen
class Threshold:
    """The least value of a metric."""

    metric: str
    least: float

    def is_met(self, value: float) -> bool:
        return value >= self.least


def parsed(texts: Iterable[str]) -> list[Threshold]:
    """Of NAME=VALUE, as knn=0.8 or retrieval_top5=0.5.

    Raises:
        UsageError: it is no such text.
    """
    names = {metric.removeprefix(PREFIX): metric for metric in TITLES}
    names |= {short: PREFIX + name for short, name in SHORT.items()} | {metric: metric for metric in TITLES}
    found = []
    for text in texts:
        name, _, number = text.partition("=")
        metric = names.get(name.strip())
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if metric is None:
            known = ", ".join(name for name in names if not name.startswith(PREFIX))
            raise UsageError(f"--min {text}: no probe is called {name!r}{did_you_mean(name, names)}; expected {known}")
        if not math.isfinite(value):
            raise UsageError(f"--min {text}: expected NAME=NUMBER, as --min knn=0.8")
        found.append(Threshold(metric, value))
    return found


def judged(thresholds: Iterable[Threshold], values: Mapping[str, float]) -> list[dict[str, Any]]:
    """`metric`, `least`, `value` and `met` of each.

    Raises:
        UsageError: a metric was not measured.
    """
    rows = []
    for threshold in thresholds:
        value = values.get(threshold.metric)
        if value is None:
            raise UsageError(
                f"--min: {threshold.metric} was not measured: ask for its probe (--probe), with the labels or masks "
                "that it needs"
            )
        met = threshold.is_met(value)
        rows.append({"metric": threshold.metric, "least": threshold.least, "value": value, "met": met})
    return rows
