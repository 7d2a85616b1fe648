"""The process that has wandb: one of its runs for each run directory, continued by each start."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bigrun.directory import replace_file
from bigrun.scribe.child import Announce, serve

__all__ = ["WandbWriter"]

MEMORY = Path("bigrun.json")
"""In the plugin's folder: the run's id, and how many starts and rows there were. A copy of the run directory continues
the same run there, and a branch (`bigrun branch`), which begins without it, a new one."""


class WandbWriter:
    """Writes rows that are never taken back.

    Weights & Biases wants ascending rows: of one whose number it has, it keeps the first. A run that goes back to a
    checkpoint takes steps again. So rows are numbered through all starts, the optimizer's step is the x axis of all
    charts, and `start` says which start has written a row: beyond the checkpoint that the next one begins from, it is
    void.
    """

    def __init__(self, settings: Mapping[str, Any], announce: Announce) -> None:
        import wandb

        self._wandb = wandb
        memory = json.loads(MEMORY.read_text(encoding="utf-8")) if MEMORY.exists() else {}
        self._id = memory.get("id") or secrets.token_hex(4)
        self._start, self._row = memory.get("starts", 0), memory.get("rows", 0)
        self._remember(starts=self._start + 1)
        self._run: Any = wandb.init(
            mode=settings["mode"],
            project=settings["project"],
            name=settings["name"],
            tags=settings["tags"],
            id=self._id,
            resume="allow",
            dir=settings["directory"],
        )
        config: Any = self._run.config
        config.update({**settings["config"], "header": settings["header"]}, allow_val_change=True)
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        if self._start:
            begin = settings["step"]
            message = f"start {self._start} continues after step {begin}: later rows of earlier starts are void"
            self._log(begin, {"event/kind": "continued", "event/level": "info", "event/message": message})

    def metrics(self, step: int, values: Mapping[str, float], time_seconds: float) -> None:
        self._log(step, values)

    def event(self, step: int, kind: str, level: str, message: str, time_utc: str) -> None:
        self._log(step, {"event/kind": kind, "event/level": level, "event/message": message})

    def picture(self, step: int, name: str, path: str) -> None:
        if not Path(path).is_file():  # rotated away before its turn came
            return
        self._log(step, {f"pictures/{name}": self._wandb.Image(path, caption=f"step {step}")})

    def checkpoint(self, step: int, path: str) -> None:
        self._log(step, {"checkpoint/step": step, "checkpoint/path": path})

    def finish(self, status: str) -> None:
        self._run.summary["status"] = status
        self._run.finish(exit_code=1 if status in ("failed", "died") else 0)

    def _log(self, step: int, values: Mapping[str, Any]) -> None:
        self._row += 1
        self._remember(starts=self._start + 1)  # first: a number that is left out does no harm
        self._run.log({**values, "step": step, "start": self._start}, step=self._row)

    def _remember(self, starts: int) -> None:
        facts = {"id": self._id, "starts": starts, "rows": self._row}
        replace_file(MEMORY, json.dumps(facts).encode())


if __name__ == "__main__":
    sys.exit(serve(WandbWriter))
