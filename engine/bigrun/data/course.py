"""Where the micro-batches of a process begin, in the run's order of images."""

from __future__ import annotations

import attrs

from bigrun.sections import Data

__all__ = ["Course"]


@attrs.frozen
class Course:
    """A step has the images at the next `batch` positions, however many processes there are; process r of n takes the
    r-th n-th of them, micro-batch by micro-batch."""

    first: int
    """Position at which the first one begins."""
    micro_batch: int
    own: int
    """Images of a step that are this process's."""
    batch: int
    """Images of a step."""

    @classmethod
    def of(cls, data: Data, start: int, rank: int, processes: int) -> Course:
        """From the step on that begins at position `start`."""
        assert data.micro_batch is not None
        own = data.effective_batch // processes
        return cls(start + rank * own, data.micro_batch, own, data.effective_batch)

    def after(self, position: int) -> int:
        """Where the micro-batch begins that comes after the one at a position."""
        following = position + self.micro_batch
        is_over = self.own < self.batch and (following - self.first) % self.batch == self.own
        return following + self.batch - self.own if is_over else following
