"""checkpoint-rotation: keep the newest checkpoints, remove older ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from bigrun import hookimpl, option
from bigrun.errors import CheckpointError
from bigrun.options import at_least

if TYPE_CHECKING:
    from bigrun.run import Run

__all__ = ["CheckpointRotation"]


@attrs.frozen
class RotationConfig:
    """How many checkpoints stay."""

    keep_last: int = option(3, check=at_least(2), help="The newest so many checkpoints stay; at least 2.")


class CheckpointRotation:
    """Runs after a new checkpoint is verified, so a kill at any moment leaves at least `keep_last` of them. One that
    cannot be removed is tried again after the next save."""

    Config = RotationConfig
    observer = True

    def __init__(self, config: RotationConfig) -> None:
        self.keep_last = config.keep_last

    @hookimpl
    def on_checkpoint(self, run: Run, step: int, path: Path) -> None:
        # Anything newer than the checkpoint just verified is not ours to judge.
        steps = [s for s in run.checkpoints.steps() if s <= step]
        for old in steps[: -self.keep_last]:
            try:
                run.checkpoints.delete(old)
            except CheckpointError as error:  # a busy network disk must not end rotation: the disk would fill
                run.event("checkpoint-not-removed", str(error), level="warning", step_to_remove=old)
            else:
                run.event("checkpoint-removed", f"removed the checkpoint of step {old}", removed_step=old)
