"""A process in which tensors have no values: nothing can be found to be wrong with them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bigrun.planner.live_bytes import LiveBytes
from bigrun.planner.memory import BACKWARD
from bigrun.sections import Hardware
from bigrun.strategy import Agreement, SingleProcess

__all__ = ["RehearsalProcess"]


class RehearsalProcess(SingleProcess):
    """Computes on the CPU, where `FakeTensorMode` works with any build of torch."""

    def __init__(self, hardware: Hardware, live: LiveBytes) -> None:
        super().__init__(hardware)
        self.device = torch.device("cpu")
        self.live = live

    def backward(self, loss: Tensor, *, keep_graph: bool = False) -> None:
        with self.live.during(BACKWARD):
            super().backward(loss, keep_graph=keep_graph)

    def agree(self, finite: Sequence[Tensor], *, stop: bool, failed: int) -> Agreement:
        return Agreement(healthy=True, stop=False, failed=0)
