"""The section of the health report."""

from __future__ import annotations

from typing import Any

from bigrun_band.comparison import Comparison

__all__ = ["section"]


def section(comparison: Comparison | None, why: str) -> dict[str, Any]:
    """`warn` while a metric is outside, `none` while nothing is compared; each metric with its band as a curve.

    Args:
        why: nothing is compared.
    """
    if comparison is None:
        return {"title": "Reference band", "status": "none", "lines": [why]}
    band = comparison.band
    return {
        "title": "Reference band",
        "status": status(comparison),
        "lines": lines(comparison),
        "table": {
            "columns": ["metric", "where", "step", "outside since"],
            "rows": [
                [name, place.words, str(place.step), since(comparison, name)]
                for name, place in comparison.places.items()
            ],
        },
        "curves": [
            {"title": name, "unit": "", "metrics": [name], "scale": "linear", "band": curve.as_json()}
            for name, curve in band.curves.items()
        ],
    }


def status(comparison: Comparison) -> str:
    if comparison.out:
        return "warn"
    return "ok" if comparison.places else "none"


def lines(comparison: Comparison) -> list[str]:
    band = comparison.band
    about = f"{len(band.runs)} runs of {band.preset or 'this configuration'}, to step {band.last_step}"
    found = [f"{name} has left its band since step {since(comparison, name)}" for name in comparison.out]
    if not comparison.places:
        return [about, "no row could be compared yet"]
    return [about, *(found or ["every metric is in its band"])]


def since(comparison: Comparison, name: str) -> str:
    excursion = comparison.excursions[name]
    return str(excursion.since_step) if excursion.is_out else ""
