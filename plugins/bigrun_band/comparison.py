"""A run's rows of metrics against a band."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from bigrun.events import Event
from bigrun_band.band import Band
from bigrun_band.excursion import Excursion
from bigrun_band.smooth import Trailing

__all__ = ["Comparison", "Place", "is_of"]


@attrs.frozen
class Place:
    """Where a metric was in the newest row that could be compared."""

    step: int
    value: float
    low: float
    high: float

    @property
    def words(self) -> str:
        if not math.isfinite(self.value):
            return "not finite"
        side = "above" if self.value > self.high else "below" if self.value < self.low else "in"
        return f"{self.value:.4g}, {side} {self.low:.4g} to {self.high:.4g}"


class Comparison:
    """Smooths as the band was smoothed, and tells when a metric leaves it and comes back."""

    def __init__(self, band: Band, hold_rows: int, from_step: int = 0) -> None:
        """
        Args:
            from_step: a run that was not watched before has half-full windows up to here; they are not judged.
        """
        self.band = band
        self.hold_rows = hold_rows
        self.from_step = from_step
        self.places: dict[str, Place] = {}
        self._means: dict[str, Trailing] = {}
        self.excursions: dict[str, Excursion] = {}

    @property
    def out(self) -> list[str]:
        """Metrics that are outside, by name."""
        return sorted(name for name, excursion in self.excursions.items() if excursion.is_out)

    def take(self, step: int, metrics: Mapping[str, float]) -> Iterator[Event]:
        """The events of a row."""
        for name, curve in self.band.curves.items():
            if name not in metrics:
                continue
            mean = self._means.setdefault(name, Trailing(self.band.smooth_steps)).add(step, float(metrics[name]))
            bounds = curve.at(step)
            if bounds is None or step <= self.from_step:
                continue
            place = self.places[name] = Place(step, mean, *bounds)
            excursion = self.excursions.setdefault(name, Excursion())
            since = excursion.since_step
            change = excursion.update(step, mean, *bounds, self.hold_rows)
            if change is not None:
                yield event(name, place, change, excursion.since_step if change == "left" else since)

    def state_dict(self) -> dict[str, Any]:
        """As JSON, which has texts for numbers that are not finite."""
        points = {name: [[step, as_json(v)] for step, v in mean.points] for name, mean in self._means.items()}
        excursions = {name: excursion.as_json() for name, excursion in self.excursions.items()}
        return {
            "band_sha256": self.band.sha256, "points": points, "excursions": excursions, "from_step": self.from_step,
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on as a comparison with the same band has ended; see `is_of`."""
        self.from_step = int(state["from_step"])
        self._means = {name: Trailing(self.band.smooth_steps, points) for name, points in state["points"].items()}
        self.excursions = {name: Excursion.from_json(each) for name, each in state["excursions"].items()}


def is_of(state: Mapping[str, Any], band: Band) -> bool:
    """Whether a state is that of a comparison with this band."""
    return state.get("band_sha256") == band.sha256


def as_json(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def event(name: str, place: Place, change: str, since: int | None) -> Event:
    """`left-band` and `back-in-band`, for the run to complete with its step."""
    facts: dict[str, Any] = {
        "flag": f"band:{name}",
        "state": "began" if change == "left" else "ended",
        "metric": name,
        "value": as_json(place.value),
        "low": place.low,
        "high": place.high,
        "since_step": since,
    }
    if change == "left":
        return Event("left-band", f"{name} has left its band since step {since}: {place.words}", 0, "warning", facts)
    message = f"{name} is back in its band, which it had left at step {since}: {place.words}"
    return Event("back-in-band", message, 0, "info", facts)
