"""From runs to a band."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bigrun.errors import UsageError
from bigrun.record.record import RunRecord
from bigrun_band.alike import check_alike, check_data, whole_option
from bigrun_band.band import Band, Curve
from bigrun_band.envelope import Envelope, chosen_widen
from bigrun_band.origin import described
from bigrun_band.relevant import relevant
from bigrun_band.smooth import Trailing

__all__ = ["FLOOR", "SMOOTH_ROWS", "make_band", "smoothed"]

SMOOTH_ROWS = 3
FLOOR = 0.02
"""No band is narrower, to either side, than this fraction of its middle, or of the range of the whole curve."""
NAMES = ("loss", "class_spread", "target_entropy_fraction", "patch_target_entropy_fraction", "koleo")
PREFIXES = ("loss/", "probe/")


def make_band(
    records: Sequence[RunRecord],
    *,
    smooth_rows: int = SMOOTH_ROWS,
    widen: float | None = None,
    floor: float | None = None,
    preset: str = "",
    other_data: bool = False,
) -> Band:
    """A band around the curves of runs that differ in nothing but their seed.

    Args:
        other_data: they may have seen other images.

    Raises:
        UsageError: they differ in more, or not in their seed, or there is no row that all of them have.
    """
    check_alike(records)
    if not other_data:
        check_data(records)
    if len(records) < 2 and floor is None:
        raise UsageError(
            "one run says nothing about how far another may be from it: give more runs, of other seeds, or a "
            "tolerance, as --floor 0.1 for 10 % to either side"
        )
    floor = FLOOR if floor is None else floor
    every = whole_option(records[0], "log_every_steps")
    names = sorted({name for record in records for row in record.metrics for name in row if is_watched(name)})
    curves: dict[str, Curve] = {}
    widened: dict[str, float] = {}
    for name in names:
        found = [smoothed(record.metrics, name, smooth_rows * every) for record in records]
        envelope = Envelope.of(found, floor)
        if envelope is not None:
            widened[name] = chosen_widen(found, floor) if widen is None else widen
            curves[name] = envelope.widened(widened[name])
    if not curves:
        raise UsageError(f"{records[0].directory}: no row of metrics that all these runs have (metrics.jsonl)")
    return Band(
        preset=preset,
        relevant=relevant(records[0].config),
        log_every_steps=every,
        smooth_steps=smooth_rows * every,
        widen=widened,
        floor=floor,
        runs=tuple(map(described, records)),
        curves=curves,
    )


def is_watched(name: str) -> bool:
    """Whether a metric says that a run learns as others did. Schedules and gradient norms do not."""
    return name in NAMES or name.startswith(PREFIXES)


def smoothed(rows: Sequence[Mapping[str, Any]], name: str, steps: int) -> dict[int, float]:
    """A metric's trailing mean by step, without what is not finite."""
    trailing, found = Trailing(steps), {}
    for row in rows:
        if name in row and "step" in row:
            try:
                value = trailing.add(int(row["step"]), float(row[name]))  # "nan" is how a log has it
            except (TypeError, ValueError, OverflowError):
                continue
            if math.isfinite(value):
                found[int(row["step"])] = value
    return found
