"""A saver for a run of which nothing is to remain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bigrun.saver import Saver

if TYPE_CHECKING:
    from bigrun.run import Run

__all__ = ["UnsavedSaver"]


class UnsavedSaver(Saver):
    """Saves nothing, whoever asks."""

    def due(self, step: int) -> bool:
        return False

    def save(self, run: Run) -> None:
        return
