"""What is wrong with a step, and what can be done about it."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Mapping
from typing import Literal, get_args

import attrs

__all__ = ["SEVERITIES", "USUAL_SEVERITY", "Action", "Anomaly", "Severity", "nonfinite", "strongest"]

Severity = Literal["minor", "serious", "grave"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
USUAL_SEVERITY: Severity = "serious"
"""Of an anomaly whose reporter says none."""
"""From the lightest to the gravest."""


class Action(enum.Enum):
    """The answer to an anomaly, from the weakest to the strongest."""

    WARN = "warn"
    """Say so and go on. A step that is not finite is skipped all the same."""
    SKIP = "skip"
    """Leave the weights alone and go on; the step counts."""
    SAVE = "save"
    """Keep the state before the update as an emergency checkpoint; then as SKIP."""
    ROLL_BACK = "roll-back"
    """Go on from the newest verified checkpoint that is older than the onset, behind the images of today."""
    HALT = "halt"
    """Keep the state as an emergency checkpoint and end the run with an error; the checkpoints stay."""


def strongest(actions: Iterable[Action]) -> Action:
    """The strongest of several answers; WARN when there is none."""
    order = list(Action)
    return max(actions, key=order.index, default=Action.WARN)


@attrs.frozen
class Anomaly:
    """A diagnosis: what is wrong, how one sees it, where it may come from and what to try."""

    kind: str
    """A short name to test for, such as `nonfinite`."""
    step: int
    """The step in which it was found."""
    message: str
    """One sentence for people."""
    evidence: Mapping[str, float | str] = attrs.field(factory=dict)
    causes: tuple[str, ...] = ()
    """Likely ones first."""
    advice: tuple[str, ...] = ()
    """What to try, in this order."""
    onset: int | None = None
    """The first step in which it showed, None for `step`: a roll back goes behind it."""
    lasts: bool = False
    """It is not of one step: whoever reports it says when it is over, with an event `anomaly-over` whose facts are
    `anomaly`, its kind, and `since`, its onset."""
    severity: Severity | None = None
    """Of several that got the same answer, which one a person is to read first; None: nobody says, as `USUAL_SEVERITY`.
    grave: what was learned is being lost;
    minor: it may be a property of the data, or a sign of something else."""


NONFINITE_CAUSES = (
    "a learning rate that is too high for the batch, most often in the warm-up",
    "a loss term that divides by a small number or takes the logarithm of one, such as KoLeo on equal images",
    "an image with values that are no numbers, or constant ones",
)
NONFINITE_ADVICE = (
    "`bigrun replay RUN --step N` shows the operation and the images",
    'hardware.precision = "fp32" in the replay tells rounding from a real fault',
    "a lower optimizer.base_lr or a longer warm-up, if it comes again with other images",
)


def nonfinite(step: int, values: Mapping[str, float]) -> Anomaly:
    """The anomaly of a loss or gradient norm that is NaN or infinite; `values` are the step's metrics."""
    evidence = {name: str(value) for name, value in values.items() if not math.isfinite(value)}
    culprits = ", ".join(f"{name} = {value}" for name, value in evidence.items()) or "a value on another process"
    message = f"not finite: {culprits}; weights and teacher are untouched"
    return Anomaly("nonfinite", step, message, evidence, NONFINITE_CAUSES, NONFINITE_ADVICE, severity="grave")
