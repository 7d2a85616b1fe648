"""How long the processes of a run talk beside how long they compute: bounds, not a guess. Torch-free.

A collective takes what each process sends over the slowest link of its ring. Latencies are left out; a step has some
hundreds of collectives, a few 10 us each. Without any overlap a step takes the time of both, with perfect overlap that
of the longer one. FSDP and DDP overlap most of it: truth is between, and nearer to perfect the fewer of the bytes are
of heads and embeddings, which nothing is computed beside.

That is for GPUs. On a CPU nothing overlaps: FSDP2 has no streams there, and the thread that computes waits in each
collective (`unshard_async_op` is False in torch 2.13); gloo's copies and sums take the cores that compute.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bigrun.planner.communication import Collective
    from bigrun.planner.links import Links
    from bigrun.planner.sharing import Sharing

__all__ = ["Efficiency", "collective_seconds", "communication_seconds", "ring_bytes_per_second"]


def communication_seconds(collectives: Iterable[Collective], sharing: Sharing, links: Links) -> float:
    """Of one step, one collective after the other."""
    return sum(collective_seconds(collective, sharing, links) for collective in collectives)


def collective_seconds(collective: Collective, sharing: Sharing, links: Links) -> float:
    """Of all of one kind in a step."""
    return collective.sent_bytes / ring_bytes_per_second(collective, sharing, links)


def ring_bytes_per_second(collective: Collective, sharing: Sharing, links: Links) -> float:
    """What each member sends: that of the GPUs' links, or this ring's share of the node's network.

    Processes are counted node by node, and groups are one after another. A ring leaves each node once. Over all
    processes, or in a group of whole nodes, there is one; in a group that begins within a node and ends in another
    there may be two; between groups there is one for each shard that the node has.
    """
    is_within_nodes = not collective.between_groups and sharing.per_node % collective.members == 0
    if sharing.nodes == 1 or is_within_nodes:
        return links.node_bytes_per_second
    if collective.between_groups:
        rings = min(sharing.shards, sharing.per_node)
    else:
        rings = 1 if collective.members % sharing.per_node == 0 else 2
    return min(links.node_bytes_per_second, links.network_bytes_per_second / rings)


@attrs.frozen
class Efficiency:
    """Of one step on all processes: the share of time in which they compute."""

    compute_seconds: float
    """Of each process."""
    communication_seconds: float

    @property
    def longest_seconds(self) -> float:
        """Of a step in which nothing overlaps."""
        return self.compute_seconds + self.communication_seconds

    @property
    def shortest_seconds(self) -> float:
        """Of a step in which everything does."""
        return max(self.compute_seconds, self.communication_seconds)

    @property
    def least(self) -> float:
        return self.compute_seconds / self.longest_seconds

    @property
    def most(self) -> float:
        return self.compute_seconds / self.shortest_seconds
