"""Runs that are finished, and the tables they make."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path

import attrs
import numpy as np
from learning_data import LearningData
from learning_setups import METHODS
from probes import knn_score, linear_score
from reporting import table

__all__ = ["Point", "Results", "print_task"]

RECIPE = "bigrun"
SCORES = {"knn": "k-NN", "linear": "linear probe"}
INDICATORS = {
    "s_cls": "s_cls",
    "rankme": "RankMe",
    "rankme_fraction": "of rank",
    "s_patch": "s_patch",
    "cls_patch_cosine": "cls-patch",
    "prototypes_used": "prototypes used",
}


@attrs.frozen
class Point:
    """Scores after so many images and so much CPU time."""

    images: int
    cpu_seconds: float
    seconds: float
    knn: float
    linear: float
    indicators: dict[str, float]
    warnings: tuple[str, ...]


class Results:
    """Points of each run, in a file of JSON lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.keys: set[str] = set()
        self._runs: dict[tuple[str, str, int], list[Point]] = {}

    @classmethod
    def read(cls, path: Path, keys: Collection[str]) -> Results:
        """Those runs of the file whose key is among `keys`."""
        results = cls(path)
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        for line in map(json.loads, lines):
            if line["key"] in keys:
                points = [Point(**{**p, "warnings": tuple(p["warnings"])}) for p in line["points"]]
                results._keep(line["key"], line["task"], line["method"], line["seed"], points)
        return results

    def add(self, key: str, task: str, method: str, seed: int, points: list[Point]) -> None:
        """Keep a run, and write it down."""
        line = {"key": key, "task": task, "method": method, "seed": seed, "points": [attrs.asdict(p) for p in points]}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._keep(key, task, method, seed, points)

    def _keep(self, key: str, task: str, method: str, seed: int, points: list[Point]) -> None:
        self.keys.add(key)
        self._runs[task, method, seed] = points

    def of(self, task: str, method: str, seeds: Sequence[int]) -> list[list[Point]]:
        """One list of points per seed."""
        return [self._runs[task, method, seed] for seed in seeds]


def print_task(task: str, data: LearningData, results: Results, methods: Sequence[str], seeds: Sequence[int]) -> None:
    """All tables of one data set."""
    runs = {method: results.of(task, method, seeds) for method in methods}
    pixels = data.probe_pixels()
    raw = {"knn": knn_score(pixels, data.labels), "linear": linear_score(pixels, data.labels)}
    images = [point.images for point in next(iter(runs.values()))[0]]
    shortest = min(points[-1].cpu_seconds for per_seed in runs.values() for points in per_seed)
    times = [shortest * share for share in (0.25, 0.5, 0.75, 1.0)]
    for kind, name in SCORES.items():
        print(f"\n{task}: {name} accuracy over images seen; mean of {len(seeds)} seeds, at the end (lowest to highest)")
        print(score_table(runs, raw[kind], images, partial(at_images, kind=kind)))
        print(f"\n{task}: {name} accuracy over CPU seconds")
        print(score_table(runs, raw[kind], times, partial(at_time, kind=kind)))
    print(f"\n{task}: at the end, mean of {len(seeds)} seeds")
    print(indicator_table(runs))
    for line in verdicts(task, runs):
        print(line)


def score_table(
    runs: dict[str, list[list[Point]]],
    raw: float,
    places: Sequence[float],
    read: Callable[[Sequence[Point], float], float],
) -> str:
    rows = [["raw pixels", *[f"{raw:.3f}"] * len(places), ""]]
    for method, per_seed in runs.items():
        values = [[read(points, place) for points in per_seed] for place in places]
        last = f"({min(values[-1]):.3f} to {max(values[-1]):.3f})"
        rows.append([method, *(f"{statistics.mean(v):.3f}" for v in values), last])
    return table(("", *(f"{place:.0f}" for place in places), ""), rows)


def at_images(points: Sequence[Point], images: float, kind: str) -> float:
    """The score after exactly so many."""
    (found,) = (getattr(point, kind) for point in points if point.images == images)
    return float(found)


def at_time(points: Sequence[Point], seconds: float, kind: str) -> float:
    """Between two points on the line between them, after the last one as it."""
    return float(np.interp(seconds, [p.cpu_seconds for p in points], [getattr(p, kind) for p in points]))


def indicator_table(runs: dict[str, list[list[Point]]]) -> str:
    """Collapse indicators, and what a run cost."""
    rows = []
    for method, per_seed in runs.items():
        ends = [points[-1] for points in per_seed]
        values = [statistics.mean(end.indicators[name] for end in ends) for name in INDICATORS]
        cost = 1e3 * statistics.mean(end.cpu_seconds / end.images for end in ends)
        warned = sorted({name for end in ends for name in end.warnings})
        rows.append([method, *(f"{v:.3g}" for v in values), f"{cost:.2f}", ", ".join(warned) or "none"])
    return table(("", *INDICATORS.values(), "CPU ms / image", "warnings"), rows)


def verdicts(task: str, runs: dict[str, list[list[Point]]]) -> list[str]:
    """bigrun's recipe against each other method, as differences of runs with the same seed."""
    if RECIPE not in runs:
        return []
    lines = []
    for method, theirs in ((m, r) for m, r in runs.items() if m != RECIPE):
        for kind, name in SCORES.items():
            pairs = list(zip(runs[RECIPE], theirs, strict=True))
            equal_images = [getattr(a[-1], kind) - getattr(b[-1], kind) for a, b in pairs]
            equal_time = [difference_at_equal_time(a, b, kind) for a, b in pairs]
            peer = "peer: " if METHODS[method].library != "bigrun" else ""
            said = f"at equal images {spread_text(equal_images)}, at equal CPU time {spread_text(equal_time)}"
            lines.append(f"{task}, {name}: bigrun less {peer}{method}: {said}")
    return ["", *lines]


def difference_at_equal_time(ours: Sequence[Point], theirs: Sequence[Point], kind: str) -> float:
    """At the end of the run that took less time."""
    seconds = min(ours[-1].cpu_seconds, theirs[-1].cpu_seconds)
    return at_time(ours, seconds, kind) - at_time(theirs, seconds, kind)


def spread_text(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):+.3f} ({min(values):+.3f} to {max(values):+.3f})"
