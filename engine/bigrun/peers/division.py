"""How the images of a step are divided: effective batch = micro-batch x accumulation x processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bigrun.devices.defaults import with_choices
from bigrun.errors import UsageError
from bigrun.same_objective import KOLEO_GROUP, koleo_group_beside, micro_batches, micro_batches_fixed_by

if TYPE_CHECKING:
    from bigrun.config import Config
    from bigrun.run import Run

__all__ = ["check_divides", "check_division", "divide_batch"]


def check_division(run: Run) -> None:
    """
    Raises:
        UsageError: the images of a step cannot be divided among so many processes, or not without another objective.
    """
    config, size = run.config, run.peers.size
    check_divides(config.data.effective_batch, size)
    if "data.micro_batch" not in config.explicit and not sizes(config, size):
        raise UsageError(another_objective(config, size))


def divide_batch(run: Run) -> None:
    """Take a smaller micro-batch where the one that was chosen does not divide a process's images; behind
    `check_division`.

    Raises:
        UsageError: the preset's own does not divide them.
    """
    batch, micro, size = run.config.data.effective_batch, run.config.data.micro_batch, run.peers.size
    assert micro is not None
    own = batch // size
    if own % micro == 0:
        return
    if "data.micro_batch" in run.config.explicit:
        raise UsageError(
            f"data.effective_batch = {batch} is no multiple of data.micro_batch = {micro} x {size} processes: each has "
            f"{own} images of a step; set data.micro_batch to a divisor of {own}, or leave it out"
        )
    value = max(fitting for fitting in sizes(run.config, size) if fitting < micro)
    run.config = with_choices(run.config, {"data.micro_batch": (value, f"of the {own} images of each process")})


def sizes(config: Config, processes: int) -> list[int]:
    """Micro-batches of a process's images that leave the objective as it is; of a plugin's objective all divisors."""
    own = config.data.effective_batch // processes
    candidates = range(1, own + 1) if "objective" in config.replaced else micro_batches(config, processes)
    return [size for size in candidates if own % size == 0]


def another_objective(config: Config, processes: int) -> str:
    """Why so many processes would train another objective, and what can be done."""
    batch, section = config.data.effective_batch, config.objective
    own = batch // processes
    problem = f"of the {batch} images of a step each of {processes} processes has {own}: "
    if (reason := micro_batches_fixed_by(config)) is not None:
        micro = config.data.micro_batch
        return (
            f"{problem}data.micro_batch = {micro}, chosen by rule, does not divide them, and {reason}; "
            f"{ways(batch, micro or 1)}, or set data.micro_batch to a divisor of {own}, which is another objective"
        )
    group = section.koleo_group or 1
    smaller = koleo_group_beside(config, own)
    other = f"{KOLEO_GROUP} = {smaller}" if smaller > section.koleo_neighbours else "objective.koleo_weight = 0"
    return (
        f"{problem}no micro-batch of them holds whole groups of {KOLEO_GROUP} = {group}; {ways(batch, group)}, or set "
        f"{other}, which is another objective"
    )


def check_divides(batch: int, size: int) -> None:
    """Raises: UsageError: so many processes cannot have as many images of a step each."""
    if batch % size:
        raise UsageError(f"data.effective_batch = {batch} cannot be divided among {size} processes: {ways(batch)}")


def ways(batch: int, group: int = 1) -> str:
    """The numbers of processes of which each has whole groups of images."""
    fitting = [str(size) for size in range(1, min(batch, 64) + 1) if batch % (size * group) == 0]
    return f"take {', '.join(fitting[:-1])} or {fitting[-1]} processes" if fitting[1:] else "take one process"
