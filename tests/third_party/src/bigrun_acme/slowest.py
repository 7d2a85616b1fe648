"""slowest-step: which step of a run took longest."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bigrun import hookimpl

if TYPE_CHECKING:
    from bigrun.run import Run

__all__ = ["SlowestStep"]


class SlowestStep:
    """Keeps `slowest-step/slowest.json` in the run directory: the step, and its seconds without waiting for data."""

    observer = True
    state_version = 1

    def __init__(self) -> None:
        self.step = 0
        self.seconds = 0.0
        self._began = 0.0

    @hookimpl
    def before_step(self) -> None:
        self._began = time.perf_counter()

    @hookimpl
    def after_step(self, run: Run, step: int) -> None:
        seconds = time.perf_counter() - self._began
        if seconds > self.seconds:
            self.step, self.seconds = step, seconds
            if run.is_main:
                text = json.dumps(self.state_dict())
                (run.path_for("slowest-step") / "slowest.json").write_text(text, encoding="utf-8")

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "seconds": self.seconds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.step, self.seconds = state["step"], state["seconds"]
