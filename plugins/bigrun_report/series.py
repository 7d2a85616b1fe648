"""A curve's numbers, and as many of them as a screen can show."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

__all__ = ["Numbers", "Series", "Thinned", "names_in", "series_of"]

Numbers = npt.NDArray[np.float64]


@attrs.frozen(eq=False)
class Series:
    """Values over an ascending x; a value that is not finite stays as it is, one that is absent is not there."""

    x: Numbers
    """(n,)"""
    values: Numbers
    """(n,)"""

    @classmethod
    def of(cls, x: Sequence[Any] | Numbers, values: Sequence[Any] | Numbers) -> Series:
        """Of what a file says: None is absent, `"nan"` is a number that is not finite, anything else is neither."""
        if not isinstance(x, np.ndarray) and (None in x or None in values):
            there = [(a, b) for a, b in zip(x, values, strict=True) if a is not None and b is not None]
            x, values = [a for a, _ in there], [b for _, b in there]
        return cls._sorted(numbers(x), numbers(values))

    @classmethod
    def _sorted(cls, x: Numbers, values: Numbers) -> Series:
        good = np.isfinite(x)
        x, values = x[good], values[good]
        if len(x) > 1 and (np.diff(x) < 0).any():  # a resumed run repeats steps
            order = np.argsort(x, kind="stable")
            x, values = x[order], values[order]
        return cls(x, values)

    def __len__(self) -> int:
        return len(self.x)

    @property
    def finite(self) -> Series:
        """The points whose value is finite."""
        good = np.isfinite(self.values)
        return self if good.all() else Series(self.x[good], self.values[good])

    def thinned(self, low: float, high: float, columns: int) -> Thinned:
        """What `columns` columns of a screen show of the finite points with x in [low, high]."""
        series = self.finite
        wide = max(high - low, 1e-12)
        place = np.clip((series.x - low) / wide * columns, 0, columns - 1).astype(int)
        starts = np.flatnonzero(np.diff(place, prepend=-1))
        if len(series) == 0:
            return Thinned(series.x, series.values, series.values, series.values, is_all=True)
        counts = np.diff(np.append(starts, len(place)))
        mean_x = np.add.reduceat(series.x, starts) / counts
        with np.errstate(over="ignore"):
            means = np.add.reduceat(series.values, starts) / counts
        lows, highs = (f.reduceat(series.values, starts) for f in (np.minimum, np.maximum))
        return Thinned(mean_x, np.clip(means, lows, highs), lows, highs, is_all=len(starts) == len(series))


@attrs.frozen(eq=False)
class Thinned:
    """One point for each column that has any: (m,) each."""

    x: Numbers
    mean: Numbers
    low: Numbers
    high: Numbers
    is_all: bool
    """No column has more than one."""


def numbers(values: Sequence[Any] | Numbers) -> Numbers:
    """(n,), NaN for what is no number."""
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        found = np.array(values, dtype=np.float64)
        if found.ndim == 1:  # lists of one length would become a table
            return found
    return np.array([number(value) for value in values], dtype=np.float64)


def number(value: Any) -> float:
    try:
        return float(value)
    except (ValueError, TypeError, OverflowError):
        return float("nan")


def names_in(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of all numbers, in the order in which they first came."""
    return list(dict.fromkeys(name for row in rows for name in row))


def series_of(rows: Sequence[Mapping[str, Any]], name: str, *, x: str = "step", factor: float = 1.0) -> Series:
    """A column of rows; `factor` brings it to the unit that is shown."""
    series = Series.of([row.get(x) for row in rows], [row.get(name) for row in rows])
    return series if factor == 1.0 else Series(series.x, series.values * factor)
