"""The processes of a rehearsed run on this machine, as they are told of each other."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta

from bigrun.launch.rendezvous import Rendezvous
from bigrun.launch.size import threads_each

__all__ = ["places"]

HOST = "127.0.0.1"
START = timedelta(seconds=600)


@contextlib.contextmanager
def places(processes: int) -> Iterator[list[dict[str, str]]]:
    """The environment of each: what `bigrun launch` tells its processes. They meet at a store of this process, whose
    port nobody else can have taken, and which is there until they have all ended."""
    import torch.distributed as dist

    store = dist.TCPStore(HOST, 0, None, is_master=True, timeout=START, wait_for_workers=False)  # type: ignore[attr-defined]
    meeting = Rendezvous(
        size=processes,
        local_size=processes,
        host=HOST,
        port=store.port,
        run_id="bigrun-dry-run",
        is_in_launcher=True,
    )
    here = os.environ | threads_each(processes)
    yield [here | meeting.environment(rank, rank) for rank in range(processes)]
