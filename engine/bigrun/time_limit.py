"""The time that a process may take: `run.max_hours`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import attrs

from bigrun.markers import hookimpl

if TYPE_CHECKING:
    from bigrun.run import Run

__all__ = ["TimeIsUp", "TimeLimit"]


@attrs.frozen
class TimeIsUp:
    """Why a run stops, for plugins that ask (`run.get(TimeIsUp)`): it was `run.max_hours` old."""

    hours: float


class TimeLimit:
    """The hook of the engine's own plugin that asks the run to stop when its main process has had its time: others may
    have begun earlier, and know by the request."""

    @hookimpl
    def after_step(self, run: Run) -> None:
        limit = run.config.run.max_hours
        if not run.is_main or limit is None:
            return
        if time.monotonic() - run.process.began >= limit * 3600 and run.get(TimeIsUp) is None:
            run.put(TimeIsUp(limit))
            run.request_stop(f"run.max_hours = {limit:g} are over")
