"""Threads that are in torch's native code when their process ends."""

from __future__ import annotations

import threading

from torch.distributed import TCPStore

from bigrun import hookimpl

__all__ = ["AsksForEver"]


class AsksForEver:
    """Each comes back from native code all the time, and needs Python for it."""

    @hookimpl
    def teardown(self) -> None:
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)

        def ask() -> None:
            mine = store.clone()
            while True:
                mine.check(["key"])

        for _ in range(3):
            threading.Thread(target=ask, daemon=True).start()
