"""What is wrong with a step, and what can be done about it."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping

import attrs

__all__ = ["Action", "Anomaly", "nonfinite"]


class Action(enum.Enum):
    """The answer to an anomaly."""

    SKIP = "skip"
    """Leave the weights alone and go on; the step counts."""
    HALT = "halt"
    """End the run with an error; the checkpoints stay."""


@attrs.frozen
class Anomaly:
    """Why a step may not update the weights."""

    kind: str
    """A short name to test for, such as `nonfinite`."""
    step: int
    message: str
    """One sentence for people."""
    evidence: Mapping[str, float | str] = attrs.field(factory=dict)


def nonfinite(step: int, values: Mapping[str, float]) -> Anomaly:
    """The anomaly of a loss or gradient norm that is NaN or infinite; `values` are the step's metrics."""
    evidence = {name: str(value) for name, value in values.items() if not math.isfinite(value)}
    culprits = ", ".join(f"{name} = {value}" for name, value in evidence.items()) or "a value on another process"
    return Anomaly("nonfinite", step, f"not finite: {culprits}; weights and teacher are untouched", evidence)
