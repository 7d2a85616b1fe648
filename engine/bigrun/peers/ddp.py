"""Data parallelism: every process has the whole network and a share of the images of each step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bigrun.peers.several import SeveralProcesses

if TYPE_CHECKING:
    from bigrun.peers.peers import Peers
    from bigrun.sections import Hardware

__all__ = ["DataParallel"]


class Caller(nn.Module):
    """Has a network's parameters, and calls whatever is to be differentiated."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.network = network
        # DDP, asked to look for parameters that are not in use, warns on every process when it finds none.
        self.not_in_use = nn.Parameter(torch.zeros(1, device=device))

    def named_buffers(self, *arguments: Any, **options: Any) -> Iterator[tuple[str, Tensor]]:
        """None that DDP has to keep equal: they are, or are computed of all processes' rows."""
        return iter(())

    def forward(self, call: Callable[[], Tensor]) -> Tensor:
        return call()


class DataParallel(SeveralProcesses):
    """torch's DDP (arXiv 2006.15704) averages the gradients over the processes, in the last micro-batch of a step."""

    def __init__(self, hardware: Hardware, peers: Peers) -> None:
        super().__init__(hardware, peers)
        self._network: nn.Module | None = None
        self._parallel: DistributedDataParallel | None = None
        self._learning: list[nn.Parameter] = []

    def line(self) -> str:
        return f"ddp: {self.world_size} processes, each with whole networks"

    def place(self, module: nn.Module) -> nn.Module:
        placed = super().place(module)
        if any(parameter.requires_grad for parameter in placed.parameters()):
            self._network = placed
        return placed

    def micro_batch(self, *, synchronize: bool) -> AbstractContextManager[None]:
        parallel = self._reducer()
        return nullcontext() if synchronize else parallel.no_sync()

    def differentiate(self, call: Callable[[], Tensor]) -> Tensor:
        reducer = self._reducer()
        with self.peers.pace.together(), self.peers.pace.own(self.device):
            loss: Tensor = reducer(call)
        return loss

    def _reducer(self) -> DistributedDataParallel:
        """Made anew when other parameters learn than before: DDP knows those that did when it was made.

        A process whose images have no mask leaves out what only masked patches need; hence `find_unused_parameters`.
        """
        assert self._network is not None, "the objective was not placed"
        learning = [parameter for parameter in self._network.parameters() if parameter.requires_grad]
        if self._parallel is None or list(map(id, learning)) != list(map(id, self._learning)):
            with self.peers.pace.together():
                self._parallel = DistributedDataParallel(
                    Caller(self._network, self.device),
                    find_unused_parameters=True,
                    gradient_as_bucket_view=True,
                )
            self._learning = learning
        return self._parallel
