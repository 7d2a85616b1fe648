"""How the processes of a planned run share its networks and its images. Torch-free."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import attrs

from bigrun.peers.peers import Peers
from bigrun.peers.place import Place

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from bigrun.sections import Parallel

__all__ = ["ALONE", "PlannedPeers", "Sharing"]


@attrs.frozen
class Sharing:
    """One GPU for each process, as many on every node."""

    per_node: int = 1
    nodes: int = 1
    strategy: Literal["single", "ddp", "fsdp"] = "single"
    shard: Literal["grads", "full"] = "full"
    groups: int = 1
    """That have all shards among them (`parallel.replicate`)."""

    @property
    def processes(self) -> int:
        return self.per_node * self.nodes

    @property
    def shards(self) -> int:
        """Processes among which a tensor is divided; 1: each has all of it."""
        return self.processes // self.groups if self.strategy == "fsdp" else 1

    def under(self, parallel: Parallel) -> Sharing:
        """The same processes with the strategy of a configuration, which says nothing to one alone."""
        if self.processes == 1:
            return attrs.evolve(self, strategy="single", groups=1)
        groups = parallel.replicate if parallel.strategy == "fsdp" else 1
        return attrs.evolve(self, strategy=parallel.strategy or "ddp", shard=parallel.shard, groups=groups)


ALONE = Sharing()


class PlannedPeers(Peers):
    """The first of several processes, of which the others are imagined: they say what this one says."""

    def __init__(self, processes: int) -> None:
        super().__init__(Place(0, processes))

    def join(self, *, uses_gpu: bool, patience_seconds: float) -> None:
        """There is nobody to wait for."""

    def bits(self, numbers: Sequence[int]) -> list[int]:
        return list(numbers)

    def gathered(self, value: Any) -> list[Any]:
        return [value] * self.size
