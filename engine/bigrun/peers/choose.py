"""Which strategy a run has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bigrun.errors import UsageError
from bigrun.strategy import SingleProcess, Strategy

if TYPE_CHECKING:
    from bigrun.peers.peers import Peers
    from bigrun.sections import Hardware, Parallel

__all__ = ["choose_strategy"]


def choose_strategy(hardware: Hardware, parallel: Parallel, peers: Peers) -> Strategy:
    """One process, or several with a share of each step.

    Raises:
        UsageError: so many processes cannot do what `[parallel]` says.
    """
    if peers.size == 1:
        return SingleProcess(hardware)
    if parallel.strategy == "single":
        raise UsageError(
            f"parallel.strategy = 'single', but there are {peers.size} processes; expected 'ddp' or 'fsdp', or nothing"
        )
    if peers.size % parallel.replicate:
        raise UsageError(
            f"parallel.replicate = {parallel.replicate} does not divide {peers.size} processes; expected one of "
            f"{', '.join(str(n) for n in range(1, peers.size + 1) if peers.size % n == 0)}"
        )
    if parallel.strategy == "fsdp":
        from bigrun.peers.fsdp import FullySharded

        return FullySharded(hardware, parallel, peers)
    from bigrun.peers.ddp import DataParallel

    return DataParallel(hardware, peers)
