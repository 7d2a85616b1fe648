"""The section of the health report."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bigrun_probes.state import State

__all__ = ["TITLES", "in_words", "section", "shown"]

RATIO = "probe/retrieval_ratio_to_chance"
TITLES = {
    "probe/knn_accuracy": "k-NN, share of right answers",
    "probe/linear_accuracy": "linear probe, share of right answers",
    "probe/retrieval_top1": "view retrieval, first",
    "probe/retrieval_top5": "view retrieval, among the first five",
    RATIO: "view retrieval, times chance",
    "probe/dense_miou": "dense probe, mean IoU",
    "probe/dense_pixel_accuracy": "dense probe, share of right pixels",
}
FALLEN = 0.8
"""A share of its own best below which a value is worth a look."""
COLUMNS = ["", "now", "step", "best", "step", "before step 1", "raw pixels", "chance"]


def section(state: State, warn_ratio: float, warmup_steps: int) -> dict[str, Any]:
    """`status`: warn while view retrieval, measured after the warm-ups, is below `warn_ratio` x chance, or any value is
    below four fifths of its best; else ok."""
    warnings = list(complaints(state, warn_ratio, warmup_steps))
    lines = warnings or ([] if state.latest else ["no measurement yet"])
    if state.baselines is not None and state.baselines.begin is None:
        lines = [*lines, "the run had begun before the probes did: nothing is known of its teacher before step 1"]
    names = [name for name in TITLES if name in state.latest]
    shares = [name for name in names if name != RATIO]
    curves = [{"title": "Probes", "unit": "share, 0 to 1", "metrics": shares, "scale": "linear"}] if shares else []
    if RATIO in names:
        curves.append({"title": "View retrieval", "unit": "times chance", "metrics": [RATIO], "scale": "log"})
    return {
        "title": "Probes",
        "status": "warn" if warnings else "ok",
        "lines": lines,
        "table": {"columns": COLUMNS, "rows": [row(state, name) for name in names]},
        "curves": curves,
    }


def complaints(state: State, warn_ratio: float, warmup_steps: int) -> Iterator[str]:
    ratio = state.latest.get(RATIO)
    if ratio is not None and ratio.value < warn_ratio and ratio.step > warmup_steps:
        yield (
            f"view retrieval is {ratio.value:.2f} times chance: the network hardly tells images apart (expected more "
            f"than {warn_ratio:g} once the warm-ups are over)"
        )
    for name, now in state.latest.items():
        best = state.best[name]
        if name != RATIO and now.value < FALLEN * best.value:
            title = TITLES.get(name, name)
            yield f"{title}: {now.value:.3f} is far below its best, {best.value:.3f} at step {best.step}"


def in_words(state: State) -> list[str]:
    """A line for each value, beside what it is to be read beside."""
    return [
        f"  {title:<40} {now:>7}   before step 1 {begin}, raw pixels {pixels}, chance {chance}"
        for title, now, _, _, _, begin, pixels, chance in (row(state, name) for name in TITLES if name in state.latest)
    ]


def row(state: State, name: str) -> list[str]:
    latest, best, known = state.latest[name], state.best[name], state.baselines
    others = [known and known.begin, known and known.raw_pixels, known and known.chance]
    values = [shown(name, other.get(name) if other else None) for other in others]
    return [TITLES[name], shown(name, latest.value), str(latest.step), shown(name, best.value), str(best.step), *values]


def shown(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if name == RATIO else f"{value:.3f}"
