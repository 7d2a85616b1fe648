"""The plugin that a drill puts into its runs: it says where they are, ends them early and breaks a step."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from bigrun.markers import hookimpl
from bigrun.options import at_least, option

if TYPE_CHECKING:
    from torch import Tensor

    from bigrun.events import Event
    from bigrun.run import Run

__all__ = ["FAULTS", "PROGRESS", "Faults", "FaultsConfig"]

FAULTS = "bigrun.drill.faults:Faults"
"""What a configuration calls the plugin."""
PROGRESS = "drill.jsonl"


@attrs.frozen
class FaultsConfig:
    """What is to happen."""

    stop_step: int = option(8, check=at_least(1), help="The run stops after this step.")
    nan_step: int | None = option(None, check=at_least(1), help="The loss of this step is NaN.")


class Faults:
    """Writes a line of JSON into `drill.jsonl` beside the run directory for every step, checkpoint and event."""

    Config = FaultsConfig

    def __init__(self, config: FaultsConfig) -> None:
        self.config = config

    @hookimpl(tryfirst=True)
    def configure_runtime(self, run: Run) -> None:
        run.process.is_rehearsal = True

    @hookimpl
    def on_start(self, run: Run) -> None:
        if run.step >= self.config.stop_step:  # stopped there before, and started again
            run.request_stop("the drill is over")

    @hookimpl
    def loss_terms(self, run: Run, step: int) -> dict[str, Tensor]:
        if step != self.config.nan_step:
            return {}
        import torch

        return {"drill": torch.full((), torch.nan, device=run.device)}

    @hookimpl
    def after_step(self, run: Run, step: int) -> None:
        self._tell(run, step=step)
        if step >= self.config.stop_step:
            run.request_stop("the drill is over")

    @hookimpl
    def on_checkpoint(self, run: Run, step: int) -> None:
        times = run.saver.times
        self._tell(run, checkpoint=step, **({} if times is None else attrs.asdict(times)))

    @hookimpl
    def on_event(self, run: Run, event: Event) -> None:
        self._tell(run, event=event.kind, message=event.message)

    @staticmethod
    def _tell(run: Run, **facts: Any) -> None:
        """One write of one line: whatever kills the process, no line is torn."""
        path = progress_path(run.directory)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.write(descriptor, json.dumps(facts).encode() + b"\n")
        finally:
            os.close(descriptor)


def progress_path(directory: Path) -> Path:
    """Where the plugin writes for a run directory."""
    return directory.parent / f"{directory.name}.{PROGRESS}"
