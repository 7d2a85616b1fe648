"""Numbers on a command line."""

from __future__ import annotations

import math
from typing import Any

import click

__all__ = ["FiniteRange", "WholeRange"]


class FiniteRange(click.FloatRange):
    """A range of floats without `nan`, which is in every range of click's, and without infinities."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if not is_a(float, value):
            self.fail(f"{value!r} is not a number", param, ctx)
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


class WholeRange(click.IntRange):
    """A range of whole numbers: click says of `two` that it is no valid integer range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if not is_a(int, value):
            self.fail(f"{value!r} is not a whole number", param, ctx)
        return int(super().convert(value, param, ctx))


def is_a(kind: type[int] | type[float], value: Any) -> bool:
    try:
        kind(value)
    except ValueError:
        return False
    return True
