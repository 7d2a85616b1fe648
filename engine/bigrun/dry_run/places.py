"""The processes of a rehearsed run on this machine, as they are told of each other."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta

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
    together = {
        **os.environ,
        **threads_each(processes),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "GROUP_RANK": "0",
        "GROUP_WORLD_SIZE": "1",
        "MASTER_ADDR": HOST,
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
        "TORCHELASTIC_RUN_ID": "bigrun-dry-run",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    yield [together | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]
