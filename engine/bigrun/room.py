"""Whether the disk has room for the checkpoints of a run, asked before its first step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from bigrun.checkpoint.space import RESERVE_BYTES, free_bytes, human_bytes
from bigrun.errors import UsageError

if TYPE_CHECKING:
    from bigrun.run import Run

__all__ = ["Room", "check_room"]


@attrs.frozen
class Room:
    """Room for checkpoints on the disk of the run directory."""

    checkpoint_bytes: int
    """What one takes, nearly: the networks, frozen ones among them, and the optimizer's states."""
    free_bytes: int
    wanted: int | None
    """Checkpoints that the run will save; None for a run without end."""

    @property
    def count(self) -> int:
        """Checkpoints for which there is room."""
        return max(self.free_bytes - RESERVE_BYTES, 0) // max(self.checkpoint_bytes, 1)

    def line(self, every_steps: int) -> str:
        """For the header: size, cadence, room."""
        text = (
            f"{human_bytes(self.checkpoint_bytes)} each, every {every_steps} steps; "
            f"{human_bytes(self.free_bytes)} free: room for {self.count:,}"
        )
        if self.wanted is None:
            return f"{text}, and the run has no end"
        text = f"{text}, and the run saves {self.wanted:,}"
        return text if self.wanted <= self.count else f"{text}, so older ones must go meanwhile"


def check_room(run: Run) -> Room:
    """The forecast.

    Raises:
        UsageError: there is no room for one checkpoint, or the disk does not say.
    """
    every, end = run.config.run.checkpoint_every_steps, run.max_steps
    wanted = None if end is None else -(-(end - run.step) // every)
    try:
        room = Room(expected_bytes(run), free_bytes(run.checkpoints.directory), wanted)
    except OSError as error:
        raise UsageError(f"{run.directory}: cannot be a run directory ({error.strerror}): see --run-dir") from None
    if room.count < 1:
        raise UsageError(
            f"{run.directory}: a checkpoint of this run takes about {human_bytes(room.checkpoint_bytes)}, and the disk "
            f"has {human_bytes(room.free_bytes)} left: make room, or choose another disk with --run-dir"
        )
    return room


def expected_bytes(run: Run) -> int:
    from bigrun.checkpoint.optimizer_state import expected_state_bytes
    from bigrun.checkpoint.staging import count_bytes  # imports torch, which a run does after configure_runtime

    parts = [*run.objective.parts().values(), *run.frozen.values()]
    tensors = [tensor for part in parts for tensor in part.state_dict().values()]
    return count_bytes(tensors) + expected_state_bytes(run.optimizer)
