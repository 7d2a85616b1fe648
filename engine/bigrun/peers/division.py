"""How the images of a step are divided: effective batch = micro-batch x accumulation x processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bigrun.devices.defaults import with_choices
from bigrun.errors import UsageError
from bigrun.same_objective import KOLEO_GROUP, koleo_group_beside, micro_batches, micro_batches_fixed_by

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bigrun.config import Config
    from bigrun.run import Run

__all__ = ["check_division", "divide_batch"]


def check_division(config: Config, size: int) -> None:
    """
    Raises:
        UsageError: the images of a step cannot be divided among so many processes, or not into micro-batches as they
            are set, or not without another objective.
    """
    batch, micro = config.data.effective_batch, config.data.micro_batch
    if batch % size:
        raise UsageError(f"data.effective_batch = {batch} cannot be divided among {size} processes: {ways(config)}")
    if sizes(config, size):
        return
    own = batch // size
    if "data.micro_batch" in config.explicit:
        raise UsageError(
            f"data.effective_batch = {batch} is no multiple of data.micro_batch = {micro} x {size} processes: each has "
            f"{own} images of a step; set data.micro_batch to a divisor of {own}, or leave it out, or {ways(config)}"
        )
    raise UsageError(another_objective(config, size))


def divide_batch(run: Run) -> None:
    """Take a smaller micro-batch where the one that was chosen does not divide a process's images; behind
    `check_division`."""
    batch, micro, size = run.config.data.effective_batch, run.config.data.micro_batch, run.peers.size
    assert micro is not None
    own = batch // size
    if own % micro:
        value = max(fitting for fitting in sizes(run.config, size) if fitting < micro)
        run.config = with_choices(run.config, {"data.micro_batch": (value, f"of the {own} images of each process")})


def sizes(config: Config, processes: int) -> list[int]:
    """Micro-batches of a process's images: the one that is set, else those that leave the objective as it is; of a
    plugin's objective all divisors."""
    own, micro = config.data.effective_batch // processes, config.data.micro_batch
    if micro is not None and "data.micro_batch" in config.explicit:
        candidates: Iterable[int] = [micro]
    else:
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
            f"{ways(config)}, or set data.micro_batch to a divisor of {own}, which is another objective"
        )
    group = section.koleo_group or 1
    smaller = koleo_group_beside(config, own)
    other = f"{KOLEO_GROUP} = {smaller}" if smaller > section.koleo_neighbours else "objective.koleo_weight = 0"
    return (
        f"{problem}no micro-batch of them holds whole groups of {KOLEO_GROUP} = {group}; {ways(config)}, or set "
        f"{other}, which is another objective"
    )


def ways(config: Config) -> str:
    """The numbers of processes that can share the images of a step."""
    batch = config.data.effective_batch
    fitting = [str(n) for n in range(1, min(batch, 64) + 1) if batch % n == 0 and sizes(config, n)]
    return f"take {', '.join(fitting[:-1])} or {fitting[-1]} processes" if fitting[1:] else "take one process"
