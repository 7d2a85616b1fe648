"""Whether a run is held up by its images or by its device, in plain sentences. Torch-free."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from bigrun.data.wait import TOO_LONG, advice
from bigrun.tuner.trial import PHASES, Outcome

if TYPE_CHECKING:
    from bigrun.sections import Data

__all__ = ["bound_by", "verdict"]


def bound_by(outcome: Outcome) -> Literal["data", "compute"] | None:
    """What holds the run up; None where nothing was measured."""
    if outcome.status != "ok":
        return None
    return "data" if outcome.data_share > TOO_LONG else "compute"


def verdict(outcome: Outcome, data: Data, cores: int) -> str:
    """What holds a run up, with what to change.

    Args:
        data: of the run with these settings.
        cores: that its processes may use.
    """
    total = sum(outcome.milliseconds.values())
    shares = {phase: outcome.milliseconds.get(phase, 0.0) / total for phase in PHASES}
    if bound_by(outcome) == "data":
        return f"data-bound: {shares['data']:.0%} of the time a step waits for images: {advice(data, cores)}"
    parts = ", ".join(f"{phase} {share:.0%}" for phase, share in shares.items() if phase != "data")
    return f"compute-bound: {shares['data']:.0%} of the time a step waits for images; {parts}"
