"""A process in which tensors have no values: nothing can be found to be wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bigrun.planner.live_bytes import LiveBytes
from bigrun.planner.memory import BACKWARD, OPTIMIZER
from bigrun.sections import Hardware
from bigrun.strategy import Agreement, SingleProcess

if TYPE_CHECKING:
    from bigrun.run import Run

__all__ = ["RehearsalProcess"]


class RehearsalProcess(SingleProcess):
    """Computes on the CPU, where `FakeTensorMode` works with any build of torch."""

    def __init__(self, hardware: Hardware, live: LiveBytes, processes: int = 1) -> None:
        super().__init__(hardware)
        self.device = torch.device("cpu")
        self.live = live
        self.world_size = processes

    def share(self, run: Run) -> None:
        """Count what this process has of networks that are built and not labelled yet."""

    def updating(self) -> AbstractContextManager[None]:
        """The context of an update."""
        return self.live.during(OPTIMIZER)

    def backward(self, loss: Tensor, *, keep_graph: bool = False) -> None:
        with self.live.during(BACKWARD):
            super().backward(loss, keep_graph=keep_graph)

    def agree(self, finite: Sequence[Tensor], *, stop: bool, failed: int) -> Agreement:
        return Agreement(healthy=True, stop=False, failed=0)
