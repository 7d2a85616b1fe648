"""A run that was on a GPU does not go on on the CPU because a driver has crashed. Torch-free until it is asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bigrun.checkpoint.layout import CHECKPOINTS
from bigrun.checkpoint.store import CheckpointStore
from bigrun.errors import BigrunError, CheckpointError

if TYPE_CHECKING:
    from bigrun.run import Run

__all__ = ["backend_of_newest", "check_device"]

CPU = "CPU"


def check_device(run: Run, before: str | None) -> None:
    """Look whether the GPU of the processes before is still there.

    Args:
        before: the backend of the newest process that was on a device; None: that of the newest checkpoint.

    Raises:
        BigrunError: `hardware.device` is "auto", the backend before was a GPU's, and torch sees none.
    """
    if run.config.hardware.device != "auto":
        return
    before = before or backend_of_newest(run.directory / CHECKPOINTS)
    if before in (None, CPU):
        return
    import torch

    if not torch.cuda.is_available():  # also true for ROCm
        raise BigrunError(
            f"the run was on a GPU ({before}), and torch sees none any more: the driver has failed or the GPU is gone, "
            "which nvidia-smi or rocm-smi shows; loading the driver again or a restart of the machine often helps. "
            "hardware.device = 'auto' would take the CPU, many times slower: to continue there on purpose set "
            "hardware.device = 'cpu'"
        )


def backend_of_newest(checkpoints: Path) -> str | None:
    """The backend, as `bigrun.machine.describe_machine` names it, that the newest checkpoint with readable facts was
    made on; None where no checkpoint tells."""
    store = CheckpointStore(checkpoints)
    try:
        for step in reversed(store.steps()):
            try:
                backend = store.load_facts(store.path(step), "state")["machine"]["backend"]
            except (CheckpointError, LookupError, TypeError):  # damaged, or older than these facts
                continue
            return str(backend)
    except OSError:  # the run itself says so when it looks for its checkpoint
        pass
    return None
