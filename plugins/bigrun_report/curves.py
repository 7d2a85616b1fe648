"""Which metrics stand together on a chart, and in which part of the report."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from bigrun_report.parts import Band, Chart, Line, Part
from bigrun_report.scale import Kind
from bigrun_report.section import Curve, Section
from bigrun_report.series import Series, names_in, series_of

__all__ = ["Curves"]

MOST_LINES = 8
"""On one chart; more become more charts."""
MOST_OTHERS = 48
"""Charts of metrics that nobody has placed."""


@attrs.frozen
class Group:
    """A chart of the metrics of these names, in this order; `*` stands for anything."""

    title: str
    unit: str
    names: tuple[str, ...]
    scale: Kind = "linear"
    fills: bool = False


PLACES: Mapping[str, tuple[Group, ...]] = {
    "Loss": (
        Group("Loss", "", ("loss",)),
        Group("Terms of the loss", "", ("loss/*",)),
        Group("Norm of the gradients", "L2 norm", ("grad_norm", "grad_norm/*"), "log"),
    ),
    "Learning rate and other schedules": (
        Group("Learning rate", "", ("learning_rate", "last_layer_learning_rate"), fills=True),
        Group("Weight decay", "", ("weight_decay",), fills=True),
        Group("Momentum of the teacher", "", ("teacher_momentum",), fills=True),
        Group("Temperatures", "", ("student_temperature", "teacher_temperature"), fills=True),
        Group("Weights of terms", "", ("local_weight", "*/weight"), fills=True),
    ),
    "Throughput and waiting for data": (
        Group("Images", "images/s", ("images_per_second",)),
        Group("Steps", "steps/s", ("steps_per_second",)),
        Group("Waiting for images", "share of the time", ("data_wait_fraction",)),
        Group("Model FLOPs utilisation", "share of the peak", ("mfu_fraction", "mfu_of_measured_fraction")),
        Group("Model FLOPs", "TFLOP/s", ("model_tflops_per_second",)),
        Group("Images that cannot be used", "files", ("bad_images",)),
    ),
    "Features": (
        Group("Entropies, of the step", "share of the largest", (
            "target_entropy_fraction", "patch_target_entropy_fraction", "marginal_entropy_fraction")),
        Group("Prototypes in use, of the step", "share", ("prototypes_used_fraction",)),
        Group("Spread of class tokens, of the step", "0 alike, 1 at right angles", ("class_spread",)),
        Group("Cosines, of the step", "mean cosine", ("patch_cosine", "class_patch_cosine")),
        Group("KoLeo, of the step", "before its weight", ("koleo",)),
        Group("Divergence of the student, of the step", "nat", ("student_divergence",)),
    ),
}  # fmt: skip
FEATURES, OTHERS = "Features", "Other metrics"
PROBES = ("health/*", "probe/*")


class Curves:
    """The metrics of a run, each drawn once by the engine's places, and wherever a section asks for it."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], sections: Iterable[Section] = (), *, x: str = "step") -> None:
        self.rows, self.x = rows, x
        self.names = [name for name in names_in(rows) if name not in ("step", x)]
        self._series: dict[str, Series] = {}
        self._bands = {c.metrics[0]: c.band for section in sections for c in section.curves if c.band is not None}
        self._asked = {name for section in sections for c in section.curves for name in c.metrics}
        self._drawn: set[str] = set()

    def series(self, name: str) -> Series:
        if name not in self._series:
            self._series[name] = series_of(self.rows, name, x=self.x)
        return self._series[name]

    def matching(self, patterns: Iterable[str]) -> list[str]:
        """The metrics of these names, in the order of the patterns; those that are no numbers are none."""
        found = [name for p in patterns for name in self.names if fnmatch.fnmatchcase(name, p)]
        return [name for name in dict.fromkeys(found) if len(self.series(name).finite) or self._has_numbers(name)]

    def _has_numbers(self, name: str) -> bool:
        return len(self.series(name)) > 0

    def part(self, title: str) -> Part:
        """One of the places, with the charts that there is something for."""
        charts = [chart for group in PLACES[title] for chart in self.charts(group)]
        if title == FEATURES:
            probes = [name for name in self.matching(PROBES) if name not in self._asked]
            charts += [self.alone(name) for name in probes]
        return Part(title, charts=tuple(charts))

    def others(self) -> Part:
        """The metrics that nobody has drawn."""
        names = [name for name in self.matching(["*"]) if name not in self._drawn | self._asked]
        more = len(names) - MOST_OTHERS
        lines = (f"and {more:,} more metrics, which metrics.jsonl has",) if more > 0 else ()
        return Part(OTHERS, lines=lines, charts=tuple(self.alone(name) for name in names[:MOST_OTHERS]), is_long=True)

    def charts(self, group: Group) -> list[Chart]:
        names = self.matching(group.names)
        parts = [names[i : i + MOST_LINES] for i in range(0, len(names), MOST_LINES)]
        charts = [self.chart(group.title, group.unit, part, group.scale) for part in parts]
        return [attrs.evolve(chart, fills=group.fills) for chart in charts]

    def alone(self, name: str) -> Chart:
        return self.chart(name, "share" if name.endswith("_fraction") else "", [name])

    def chart(self, title: str, unit: str, names: Sequence[str], scale: Kind = "linear") -> Chart:
        self._drawn.update(names)
        lines = tuple(Line(name, self.series(name)) for name in names)
        return Chart(title, unit, lines, scale, band_of(self._bands.get(names[0])) if names else None)

    def of_section(self, curve: Curve) -> Chart | None:
        """The chart that a section asks for; None where the run has none of its metrics."""
        names = self.matching(curve.metrics)
        if not names:
            return None
        scale: Kind = "log" if curve.scale == "log" else "linear"
        return attrs.evolve(self.chart(curve.title, curve.unit, names, scale), band=band_of(curve.band))


def band_of(band: Mapping[str, Sequence[float]] | None) -> Band | None:
    if band is None:
        return None
    low, high = (Series.of(band["steps"], band[side]) for side in ("low", "high"))
    return Band(low, high)
