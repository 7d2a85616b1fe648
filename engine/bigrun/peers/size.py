"""Whether a configuration can be trained by so many processes. Torch-free."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bigrun.errors import UsageError
from bigrun.peers.division import check_division

if TYPE_CHECKING:
    from bigrun.config import Config
    from bigrun.sections import Parallel

__all__ = ["check_size"]


def check_size(config: Config, size: int) -> None:
    """What the run refuses, also where none has begun: before its processes, or a job in a queue.

    Raises:
        UsageError: so many processes cannot do what `[parallel]` says, or share the images of a step.
    """
    if size > 1:
        check_parallel(config.parallel, size)
    check_division(config, size)


def check_parallel(parallel: Parallel, size: int) -> None:
    """Raises: UsageError: several processes cannot do what `[parallel]` says."""
    if parallel.strategy == "single":
        raise UsageError(
            f"parallel.strategy = 'single', but there are {size} processes; expected 'ddp' or 'fsdp', or nothing"
        )
    if size % parallel.replicate:
        raise UsageError(
            f"parallel.replicate = {parallel.replicate} does not divide {size} processes; expected one of "
            f"{', '.join(str(n) for n in range(1, size + 1) if size % n == 0)}"
        )
