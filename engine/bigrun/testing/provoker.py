"""What a healthy run does not have, brought about for plugins that answer it."""

from __future__ import annotations

from PIL import Image

from bigrun.anomaly import Anomaly
from bigrun.errors import TrainingHalted
from bigrun.markers import hookimpl
from bigrun.run import Run

__all__ = ["Provoker"]


class Provoker:
    """A companion that brings about what a healthy run does not have: an event, and on request more."""

    def __init__(self, hook: str) -> None:
        self.hook = hook

    @hookimpl
    def on_start(self, run: Run) -> None:
        run.event("contract", "an event for those who listen")
        if self.hook == "on_picture":
            path = run.path_for("contract") / "picture.png"
            Image.new("RGB", (8, 8)).save(path)
            run.picture("contract/picture", path)

    @hookimpl
    def before_update(self, run: Run, step: int) -> None:
        if self.hook == "on_anomaly":
            run.report_anomaly(Anomaly("contract", step, "an anomaly for those who decide"))
        if self.hook == "on_error":
            raise TrainingHalted("halted by the contract")

    @hookimpl
    def on_finish(self, run: Run) -> None:
        if self.hook == "measurements":  # a run has what a visit has, and more
            run.hook.measurements(run=run)
