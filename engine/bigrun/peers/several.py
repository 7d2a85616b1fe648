"""What every way of sharing a step among processes has in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch.distributed as dist
from torch import Tensor, nn

from bigrun.model.vit import VisionTransformer
from bigrun.objective.base import Objective
from bigrun.peers.own_time import follow
from bigrun.strategy import Agreement, SingleProcess

if TYPE_CHECKING:
    from bigrun.peers.peers import Peers
    from bigrun.sections import Hardware

__all__ = ["SeveralProcesses"]


class SeveralProcesses(SingleProcess):
    """Each has a share of the images of a step; the objective knows, and what one finds wrong is so for all."""

    def __init__(self, hardware: Hardware, peers: Peers) -> None:
        super().__init__(hardware)
        self.peers = peers
        self.rank, self.world_size = peers.rank, peers.size

    def place(self, module: nn.Module) -> nn.Module:
        if isinstance(module, Objective):
            assert dist.group.WORLD is not None, "the processes have not joined"
            module.share_step(dist.group.WORLD)
        placed = self.put(module)
        for network in networks_of(placed):
            for block in network.blocks:
                follow(block, self.peers.pace, self.device)
        return placed

    def put(self, module: nn.Module) -> nn.Module:
        """Move (or shard) it."""
        return super().place(module)

    def backward(self, loss: Tensor, *, keep_graph: bool = False) -> None:
        with self.peers.pace.together():  # gradients are sent meanwhile
            super().backward(loss, keep_graph=keep_graph)

    def agree(self, finite: Sequence[Tensor], *, stop: bool, failed: int) -> Agreement:
        with self.peers.pace.together():  # a device may have to wait for gradients
            mine = super().agree(finite, stop=stop, failed=failed)
        unhealthy, stops, failures = self.peers.bits([not mine.healthy, mine.stop, mine.failed])
        return Agreement(not unhealthy, bool(stops), failures)


def networks_of(module: nn.Module) -> Iterator[VisionTransformer]:
    """Those in it, each once."""
    return (part for part in module.modules() if isinstance(part, VisionTransformer))
