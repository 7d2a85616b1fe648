"""Whether a run is held up by its images or by its device, in plain sentences. Torch-free."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from bigrun.data.wait import TOO_LONG, advice
from bigrun.tuner.trial import PHASES, Outcome

if TYPE_CHECKING:
    from bigrun.sections import Data

__all__ = ["bound_by", "verdict"]

MORE_WORKERS = (
    "more processes that decode were tried and are not faster; pack the images once (`bigrun data pack`), which leaves "
    "nothing to decode, or move them to a faster disk"
)


def bound_by(outcome: Outcome) -> Literal["data", "compute"] | None:
    """What holds the run up; None where nothing was measured."""
    if outcome.status != "ok":
        return None
    return "data" if outcome.data_share > TOO_LONG else "compute"


def verdict(outcome: Outcome, data: Data, cores: int, *, more_were_tried: bool = False) -> str:
    """What holds a run up, with what to change.

    Args:
        data: of the run with these settings.
        cores: that its processes may use.
        more_were_tried: more workers, which were not faster.
    """
    total = sum(outcome.milliseconds.values())
    shares = {phase: outcome.milliseconds.get(phase, 0.0) / total for phase in PHASES}
    if bound_by(outcome) == "data":
        what = MORE_WORKERS if more_were_tried else advice(data, cores)
        return f"data-bound: {shares['data']:.0%} of the time a step waits for images: {what}"
    parts = ", ".join(f"{phase} {share:.0%}" for phase, share in shares.items() if phase != "data")
    return f"compute-bound: {shares['data']:.0%} of the time a step waits for images; {parts}"
