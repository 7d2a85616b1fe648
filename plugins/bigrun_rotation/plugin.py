"""checkpoint-rotation: keep the newest checkpoints, remove older ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from bigrun import hookimpl, option
from bigrun.options import at_least

if TYPE_CHECKING:
    from bigrun.run import Run

__all__ = ["CheckpointRotation"]


@attrs.frozen
class RotationConfig:
    """How many checkpoints stay."""

    keep_last: int = option(3, check=at_least(2), help="The newest so many checkpoints stay; at least 2.")


class CheckpointRotation:
    """Runs after a new checkpoint is verified, so a kill at any moment leaves at least `keep_last` of them."""

    Config = RotationConfig
    observer = True

    def __init__(self, config: RotationConfig) -> None:
        self.keep_last = config.keep_last

    @hookimpl
    def on_checkpoint(self, run: Run, step: int, path: Path) -> None:
        # Anything newer than the checkpoint just verified is not ours to judge.
        steps = [s for s in run.checkpoints.steps() if s <= step]
        for old in steps[: -self.keep_last]:
            run.checkpoints.delete(old)
            run.event("checkpoint-removed", f"removed the checkpoint of step {old}", removed_step=old)
