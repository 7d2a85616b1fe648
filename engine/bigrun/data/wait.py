"""Whether the device waits for images, and what to change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bigrun.devices.limits import usable_cores
from bigrun.markers import hookimpl

if TYPE_CHECKING:
    from bigrun.run import Run
    from bigrun.sections import Data

__all__ = ["DataWait"]

TOO_LONG = 0.1
"""Share of the time that the steps may wait for images."""
SHORT = 0.05
"""Share from which on the wait is over, so that the next one is said again."""
PATIENCE = 2
"""Reports in a row: the first one of a process has workers in it that were just started."""


class DataWait:
    """The hook of the engine's own plugin that warns when a step waits for images, once until the wait is over."""

    _long = 0

    @hookimpl
    def on_metrics(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        share = metrics["data_wait_fraction"]
        if share > TOO_LONG:
            self._long += 1
        elif share < SHORT:
            self._long = 0
        if share > TOO_LONG and self._long == PATIENCE:
            run.event(
                "data-wait",
                f"{share:.0%} of the time the step waits for images: {advice(run.config.data, usable_cores())}",
                "warning",
                data_wait_fraction=share,
            )


def advice(data: Data, cores: int) -> str:
    """What to change, the cheapest first.

    Args:
        cores: that this process may use.
    """
    workers = data.workers
    if workers == 0:
        return f"decode beside the training with data.workers = {min(max(cores - 1, 1), 4)}"
    pack = "pack the images once (`bigrun data pack`), which leaves nothing to decode"
    if workers + 1 < cores:
        return f"raise data.workers = {workers} (of {cores} cores {cores - 1 - workers} are left), or {pack}"
    return f"data.workers = {workers} take all of the {cores} cores: {pack}"
