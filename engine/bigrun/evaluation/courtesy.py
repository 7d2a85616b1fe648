"""How a visit leaves the machine to the run that it looks at. Torch-free."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from bigrun.devices.limits import usable_cores

__all__ = ["few_threads", "last_in_line"]

NICEST = 19
"""nice(1): a processor that anybody else wants is theirs."""


def few_threads() -> int:
    """Half of the processors that this process may use, one at least."""
    return max(1, usable_cores() // 2)


@contextlib.contextmanager
def last_in_line() -> Iterator[None]:
    """Let the kernel serve every other process first, from this thread and those that it starts; behind it as before,
    where that is allowed."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, NICEST)
    try:
        yield
    finally:
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, before)
