"""How the images of a step are divided: effective batch = micro-batch x accumulation x processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bigrun.devices.defaults import with_choices
from bigrun.errors import UsageError

if TYPE_CHECKING:
    from bigrun.run import Run

__all__ = ["check_divides", "divide_batch"]


def divide_batch(run: Run) -> None:
    """Take a smaller micro-batch where that of the preset was chosen by rule and does not divide a process's images.

    Raises:
        UsageError: the images cannot be divided, or not without another objective; or the micro-batch was to be halved
            in a new process.
    """
    data, size = run.config.data, run.peers.size
    if size > 1 and run.config.hardware.on_oom == "halve":
        raise UsageError('hardware.on_oom = "halve" is for one process; with several expected "stop"')
    micro, batch = data.micro_batch, data.effective_batch
    assert micro is not None
    check_divides(batch, size)
    own = batch // size
    if own % micro == 0:
        return
    if "data.micro_batch" in run.config.explicit:
        raise UsageError(
            f"data.effective_batch = {batch} is no multiple of data.micro_batch = {micro} x {size} processes: each has "
            f"{own} images of a step; set data.micro_batch to a divisor of {own}, or leave it out"
        )
    value = max(divisor for divisor in range(1, micro + 1) if own % divisor == 0)
    run.config = with_choices(run.config, {"data.micro_batch": (value, f"of the {own} images of each process")})


def check_divides(batch: int, size: int) -> None:
    """Raises: UsageError: so many processes cannot have as many images of a step each."""
    if batch % size:
        raise UsageError(f"data.effective_batch = {batch} cannot be divided among {size} processes: {ways(batch)}")


def ways(batch: int) -> str:
    fitting = [str(size) for size in range(1, min(batch, 64) + 1) if batch % size == 0]
    return f"take {', '.join(fitting[:-1])} or {fitting[-1]} processes" if fitting[1:] else "take one process"
