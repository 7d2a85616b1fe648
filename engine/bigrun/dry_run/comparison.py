"""Whether a run that was saved and continued is the run that went on. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

__all__ = ["Comparison", "compare"]

COMPARED = ("loss", "grad_norm")
"""Metrics of these names, and those below them (`loss/ibot`): what the step's state decides, and nothing of time."""
NEAR = 1e-3
"""Losses of a GPU, whose sums may come in another order, may be so far apart."""


@attrs.frozen
class Comparison:
    """Steps that were taken twice: without a break, and from the checkpoint."""

    steps: tuple[int, ...]
    loss: float | str | None
    """Of the last of them, without a break; a text where it is not finite, None where the step was left out."""
    resumed_loss: float | str | None
    differing: tuple[str, ...]
    """Metrics that are not the same bit for bit."""
    plugins: tuple[str, ...]
    """Whose state differs afterwards."""
    apart: float
    """The largest difference of a loss, as a share of it; infinity where one is no number."""

    @property
    def is_exact(self) -> bool:
        return not self.differing and not self.plugins

    def is_good(self, *, is_gpu: bool) -> bool:
        """Bit for bit; on a GPU nearly."""
        return self.is_exact or (is_gpu and self.apart <= NEAR and not self.plugins)


def compare(straight: Mapping[str, Any], resumed: Mapping[str, Any]) -> Comparison:
    """Compare what two processes have answered (`Watching.answer`), at the steps that both have taken."""
    steps = sorted(set(straight["rows"]) & set(resumed["rows"]), key=int)
    differing, apart = list[str](), 0.0
    for step in steps:
        before, after = straight["rows"][step], resumed["rows"][step]
        for name in sorted(name for name in before.keys() | after.keys() if is_compared(name)):
            if before.get(name) != after.get(name):
                differing.append(name)
                apart = max(apart, distance(before.get(name), after.get(name)) if name == "loss" else 0.0)
    states, again = straight.get("states", {}), resumed.get("states", {})
    last = steps[-1]
    return Comparison(
        tuple(map(int, steps)),
        straight["rows"][last].get("loss"),
        resumed["rows"][last].get("loss"),
        tuple(dict.fromkeys(differing)),
        tuple(name for name in states if states[name] != again.get(name)),
        apart,
    )


def is_compared(name: str) -> bool:
    return name.partition("/")[0] in COMPARED


def distance(one: Any, other: Any) -> float:
    if not isinstance(one, float) or not isinstance(other, float):
        return float("inf")
    return abs(one - other) / max(abs(one), 1e-12)
