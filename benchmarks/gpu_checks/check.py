"""What a check is, and what comes out of one. Torch-free.

A check is a module with two functions: `measure(subject)` returns figures, all JSON, through bigrun's own code, and
`problems(figures)` yields what in them contradicts the claim. None: it holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

import attrs

__all__ = ["Check", "CheckModule", "Figures", "Result", "Skip", "relative_difference", "row"]

Figures = dict[str, Any]
Result = Literal["pass", "fail", "skip"]


@attrs.frozen
class Check:
    """One claim."""

    name: str
    claim: str
    docs: str
    """The page that makes it, below docs/."""
    limit_seconds: float
    module: str = ""
    """That measures it; `gpu_checks.<name>` if not given."""

    @property
    def module_name(self) -> str:
        return self.module or f"gpu_checks.{self.name}"


class CheckModule(Protocol):
    """What the module of a check has."""

    def measure(self, subject: Any) -> Figures: ...

    def problems(self, figures: Mapping[str, Any]) -> Iterator[str]: ...


class Skip(Exception):
    """The claim is not about this device, or something that is not bigrun's is missing; the message says which."""


def relative_difference(found: Sequence[float], meant: Sequence[float]) -> float:
    """The largest of any pair; NaN where one is, or where there are not as many of both, or none."""
    each = [abs(a / b - 1) for a, b in zip(found, meant, strict=False)]
    if len(found) != len(meant) or not each or any(map(math.isnan, each)):
        return math.nan
    return max(each)


def row(check: Check, result: Result, why: str, seconds: float, figures: Mapping[str, Any]) -> Figures:
    """The line of one check."""
    return {
        "check": check.name,
        "result": result,
        "why": why,
        "claim": check.claim,
        "docs": check.docs,
        "seconds": round(seconds, 1),
        "figures": dict(figures),
    }
