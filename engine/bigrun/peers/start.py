"""How the processes of a run begin together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from bigrun.announcements import checkpoint_refused
from bigrun.errors import BigrunError
from bigrun.peers.alike import check_alike, check_same_data

if TYPE_CHECKING:
    from bigrun.run import Run

__all__ = ["join", "newest_checkpoint", "together"]


def join(run: Run) -> None:
    """Wait for the other processes of the run, if there are any."""
    if run.peers.size > 1:
        import torch

        uses_gpu = run.config.hardware.device != "cpu" and torch.cuda.is_available()
        section = run.config.run  # while one saves, or takes its first step, the others wait
        patience = max(section.first_step_limit_seconds, section.save_limit_seconds)
        run.peers.join(uses_gpu=uses_gpu, patience_seconds=patience)


def newest_checkpoint(run: Run) -> Path | None:
    """The newest that is whole; the main process reads them.

    Raises:
        UsageError: the processes have not the same data.
    """
    check_same_data(run)

    def find() -> str | None:
        newest = run.checkpoints.newest_verified(lambda path, bad: checkpoint_refused(run, path, bad))
        return None if newest is None else str(newest)

    found = run.peers.by_main(find)
    return None if found is None else Path(found)


def together(run: Run, prepare: Callable[[], None]) -> None:
    """Prepare; of an error that several processes meet alike the first one tells. Nobody goes on before all are ready:
    one that fails would tell it to processes that are doing something else."""
    try:
        check_alike(run)
        prepare()
        run.peers.gathered(None)
    except BigrunError as error:
        run.peers.agree_to_end(error, quiet=run.peers.say_failure(error))
        raise
    run.peers.gathered(None)
