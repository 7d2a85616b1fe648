"""A reference band: where the curves of runs of one configuration go."""

from __future__ import annotations

import bisect
import hashlib
import json
import os
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs

from bigrun.errors import UsageError
from bigrun_band.relevant import digest

__all__ = ["FORMAT", "Band", "Curve", "read_band"]

FORMAT = 1
LARGEST_BYTES = 64 * 2**20
LARGEST = 1e300
"""So that what lies between two bounds is finite."""


@attrs.frozen
class Curve:
    """The band of one metric: bounds at ascending steps."""

    steps: tuple[int, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    def at(self, step: int) -> tuple[float, float] | None:
        """(low, high) at a step, on straight lines between its points; None before the first and after the last."""
        if not self.steps[0] <= step <= self.steps[-1]:
            return None
        right = bisect.bisect_left(self.steps, step)
        if self.steps[right] == step:
            return self.low[right], self.high[right]
        left = right - 1
        share = (step - self.steps[left]) / (self.steps[right] - self.steps[left])
        low, high = (side[left] + share * (side[right] - side[left]) for side in (self.low, self.high))
        return low, high

    def as_json(self) -> dict[str, list[Any]]:
        return {"steps": list(self.steps), "low": list(self.low), "high": list(self.high)}


@attrs.frozen
class Band:
    """What a band's file says."""

    preset: str
    relevant: Mapping[str, Any]
    log_every_steps: int
    smooth_steps: int
    widen: Mapping[str, float]
    """How many times its own range each curve is widened to either side, by metric."""
    floor: float
    runs: tuple[Mapping[str, Any], ...]
    """What it was made of: `seed`, `steps`, `started_utc`, `bigrun`, `torch`."""
    curves: Mapping[str, Curve]
    source: str = ""

    @property
    def last_step(self) -> int:
        return max(curve.steps[-1] for curve in self.curves.values())

    @property
    def sha256(self) -> str:
        """Of everything that it says: another band judges otherwise."""
        return hashlib.sha256(self.as_json().encode()).hexdigest()

    def as_json(self) -> str:
        """The file, a curve to a line."""
        facts = {
            "format": FORMAT,
            "preset": self.preset,
            "runs": list(self.runs),
            "log_every_steps": self.log_every_steps,
            "smooth_steps": self.smooth_steps,
            "widen": dict(self.widen),
            "floor": self.floor,
            "relevant": self.relevant,
            "relevant_sha256": digest(self.relevant),
        }
        head = json.dumps(facts, indent=1).removesuffix("\n}")
        curves = ",\n".join(f"  {json.dumps(name)}: {json.dumps(c.as_json())}" for name, c in self.curves.items())
        return f'{head},\n "curves": {{\n{curves}\n }}\n}}\n'


def read_band(path: Path) -> Band:
    """
    Raises:
        UsageError: it is not there, or is no band.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > LARGEST_BYTES:
                raise ValueError(f"{size:,} bytes are more than a band has")
            document = json.load(file)
        return parsed(document, str(path))
    except OSError as error:
        raise UsageError(f"{path}: the band cannot be read: {error.strerror}") from None
    except KeyError as error:
        raise UsageError(f"{path}: no reference band: {error} is missing; `bigrun band` makes one") from None
    except (ValueError, TypeError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        raise UsageError(f"{path}: no reference band: {error}; `bigrun band` makes one") from None


def parsed(document: Any, source: str) -> Band:
    if not isinstance(document, dict):
        raise ValueError("expected a JSON object")
    if document["format"] != FORMAT:
        raise ValueError(f"its format is {document['format']!r}, and this bigrun reads {FORMAT}")
    relevant, curves = document["relevant"], document["curves"]
    if digest(relevant) != document["relevant_sha256"]:
        raise ValueError("relevant_sha256 is not that of relevant: it was changed by hand")
    if not curves:
        raise ValueError("it has no curve")
    return Band(
        preset=str(document["preset"]),
        relevant=dict(relevant),
        log_every_steps=int(document["log_every_steps"]),
        smooth_steps=int(document["smooth_steps"]),
        widen={str(name): float(value) for name, value in document["widen"].items()},
        floor=float(document["floor"]),
        runs=tuple(dict(run) for run in document["runs"]),
        curves={str(name): parsed_curve(str(name), curve) for name, curve in curves.items()},
        source=source,
    )


def parsed_curve(name: str, curve: Mapping[str, Any]) -> Curve:
    steps = tuple(int(step) for step in curve["steps"])
    low, high = (tuple(float(value) for value in curve[side]) for side in ("low", "high"))
    if not steps or not len(steps) == len(low) == len(high):
        raise ValueError(f"curve {name!r}: steps, low and high are not of one length")
    if any(a >= b for a, b in pairwise(steps)):
        raise ValueError(f"curve {name!r}: its steps do not ascend")
    if not all(-LARGEST <= a <= b <= LARGEST for a, b in zip(low, high, strict=True)):
        raise ValueError(f"curve {name!r}: low is not below high everywhere")
    return Curve(steps, low, high)
