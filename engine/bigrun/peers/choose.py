"""Which strategy a run has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bigrun.strategy import SingleProcess, Strategy

if TYPE_CHECKING:
    from bigrun.peers.peers import Peers
    from bigrun.sections import Hardware, Parallel

__all__ = ["choose_strategy"]


def choose_strategy(hardware: Hardware, parallel: Parallel, peers: Peers) -> Strategy:
    """One process, or several with a share of each step; behind `check_size`."""
    if peers.size == 1:
        return SingleProcess(hardware)
    if parallel.strategy == "fsdp":
        from bigrun.peers.fsdp import FullySharded

        return FullySharded(hardware, parallel, peers)
    from bigrun.peers.ddp import DataParallel

    return DataParallel(hardware, peers)
