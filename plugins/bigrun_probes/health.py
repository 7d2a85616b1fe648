"""The section of the health report."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
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
SATURATED = 0.95
"""Where raw pixels reach that, there is no room above them in which features could show what they know."""
CLEARLY = 3.0
"""So many standard errors below the raw pixels are no accident of few images."""
COLUMNS = ["", "now", "step", "best", "step", "before step 1", "raw pixels", "chance"]


def section(state: State, warn_ratio: float, warmup_steps: int) -> dict[str, Any]:
    """`status`: warn while view retrieval, measured after the warm-ups, is below `warn_ratio` x chance, any value is
    below four fifths of its best, or all have stayed clearly below the raw pixels; none before the first measurement;
    else ok."""
    warnings = [*complaints(state, warn_ratio, warmup_steps), *below_pixels(state, warmup_steps)]
    lines = [*(warnings or beside_pixels(state, warmup_steps))] if state.latest else ["no measurement yet"]
    if state.baselines is not None and state.baselines.begin is None:
        lines = [*lines, "the run had begun before the probes did: nothing is known of its teacher before step 1"]
    names = [name for name in TITLES if name in state.latest]
    shares = [name for name in names if name != RATIO]
    curves = [{"title": "Probes", "unit": "share, 0 to 1", "metrics": shares, "scale": "linear"}] if shares else []
    if RATIO in names:
        curves.append({"title": "View retrieval", "unit": "times chance", "metrics": [RATIO], "scale": "log"})
    return {
        "title": "Probes",
        "status": "warn" if warnings else ("ok" if state.latest else "none"),
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


def comparable(state: State) -> dict[str, float]:
    """What the raw pixels reach, of each value that has room above that; times chance is the first of them again."""
    pixels = state.baselines.raw_pixels if state.baselines else {}
    return {name: pixels[name] for name in state.latest if name != RATIO and pixels.get(name, 1.0) < SATURATED}


def below_pixels(state: State, warmup_steps: int) -> Iterator[str]:
    """A complaint where no value was above the raw pixels in any measurement, view retrieval was clearly below them,
    and none is at its best now: the first measurement is, and so is what still rises."""
    pixels = comparable(state)
    readings = [(state.latest[name], state.best[name]) for name in pixels]
    if not readings or any(now.step <= warmup_steps or best.step == now.step for now, best in readings):
        return
    if all(state.best[name].value <= value for name, value in pixels.items()) and is_clear(state, pixels):
        yield (
            "in no measurement so far did the features know more than raw pixels, whose values are in brackets, and "
            f"none is still rising: {beside(state, pixels)}"
        )


def is_clear(state: State, pixels: Mapping[str, float]) -> bool:
    """Whether the best view retrieval, first and among five, is further below the raw pixels' than few images would
    explain. Healthy runs whose views keep their colours are below in one of the two: quickstart had 0.084 beside 0.113
    at the first place, 0.235 beside 0.224 among five."""
    found = []
    for among, name in ((1, "probe/retrieval_top1"), (5, "probe/retrieval_top5")):
        chance = state.baselines.chance.get(name) if state.baselines else None
        if name in pixels and chance:
            images = among / chance  # the two directions of an image are too alike to count as two
            mean = (state.best[name].value + pixels[name]) / 2
            error = math.sqrt(2 * mean * (1 - mean) / images)
            found.append(pixels[name] - state.best[name].value > CLEARLY * error)
    return bool(found) and all(found)


def beside_pixels(state: State, warmup_steps: int) -> Iterator[str]:
    """What an `ok` does not say: which values are not above the raw pixels."""
    pixels = comparable(state)
    low = {name: value for name, value in pixels.items() if state.latest[name].value <= value}
    if any(state.latest[name].step > warmup_steps for name in low):
        yield f"not above the raw pixels, whose values are in brackets: {beside(state, low)}"
    full = [TITLES.get(name, name) for name in state.latest if name != RATIO and name not in pixels]
    if full and state.baselines is not None:
        yield f"raw pixels answer nearly everything already, which leaves no room above them: {', '.join(full)}"


def beside(state: State, pixels: Mapping[str, float]) -> str:
    """Each value with that of the raw pixels."""
    return ", ".join(f"{TITLES.get(n, n)} {shown(n, state.latest[n].value)} ({shown(n, p)})" for n, p in pixels.items())


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
