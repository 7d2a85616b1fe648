"""Where attention is computed in a run, and by what it is replaced."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol

import attrs
import torch

from bigrun.errors import UsageError
from bigrun.model.attention import Attention, attend_by_group
from bigrun_attention.kernel import Attend, PackedAttention
from bigrun_attention.needs import Work
from bigrun_attention.proof import TOLERANCES, largest_error

if TYPE_CHECKING:
    from bigrun.objective.base import Objective
    from bigrun.run import Run

__all__ = ["Replacement", "replace"]


class Kernel(Protocol):
    """A kernel for packed sequences, which may not be usable everywhere."""

    name: ClassVar[str]

    def obstacle(self, run: Run, work: Work) -> str | None:
        """Why it cannot do this work on the run's device, and what to do; None where nothing speaks against it."""

    def build(self) -> Attend:
        """The kernel itself; asked for only where there is no obstacle."""


@attrs.frozen
class Replacement:
    """What became of the attention of a run: `error` where it was replaced, `obstacle` where it could not be."""

    plugin: str
    layers: int
    work: Work
    error: float | None = None
    """The largest one of the proof, as a fraction of the largest value."""
    obstacle: str | None = None

    def __str__(self) -> str:
        if self.obstacle is not None:
            return f"{self.plugin} is not in use, the engine's own attention is: {self.obstacle}"
        return (
            f"{self.plugin} computes {self.work} in {self.layers} layers, all crops in one call; it differs from the "
            f"engine's own by up to {self.error:.2g} of the largest value. Any other type has the engine's own"
        )


def replace(run: Run, objective: Objective, kernel: Kernel) -> Replacement:
    """Put a kernel into every attention layer of student, teacher and frozen networks, once it is proven; where it
    cannot be used, nothing is changed.

    Raises:
        UsageError: there is no attention that could be replaced.
    """
    attentions = attentions_of(run, objective, kernel.name)
    dtype = torch.bfloat16 if run.config.hardware.precision == "bf16" else torch.float32
    tasks = tasks_of(attentions, dtype)
    done = Replacement(kernel.name, len(attentions), tasks[0])
    for work in tasks:
        obstacle = kernel.obstacle(run, work)
        if obstacle is not None:
            return attrs.evolve(done, work=work, obstacle=obstacle)
    packed, errors = PackedAttention(kernel.build(), dtype, run.device.type), list[float]()
    for work in tasks:
        error, obstacle = prove(packed, work, run.device)
        if obstacle is not None:
            return attrs.evolve(done, work=work, obstacle=obstacle)
        errors.append(error)
    for attention in attentions:
        attention.kernel = packed
    return attrs.evolve(done, error=max(errors))


def attentions_of(run: Run, objective: Objective, plugin: str) -> list[Attention]:
    roots = (objective, *run.frozen.values())
    found = list(dict.fromkeys(m for root in roots for m in root.modules() if isinstance(m, Attention)))
    if not found:
        raise UsageError(
            f"plugins.{plugin}: {type(objective).__name__} has no bigrun.model.attention.Attention that could be "
            "replaced: do without this plugin"
        )
    if any(attention.kernel is not attend_by_group for attention in found):
        raise UsageError(f"plugins.{plugin}: another plugin has replaced the attention already: use one of them")
    return found


def tasks_of(attentions: list[Attention], dtype: torch.dtype) -> list[Work]:
    """Networks of several widths may have heads of several sizes."""
    sizes = dict.fromkeys((each.heads, each.proj.in_features // each.heads) for each in attentions)
    return [Work(heads, size, str(dtype).removeprefix("torch.")) for heads, size in sizes]


def prove(kernel: PackedAttention, work: Work, device: torch.device) -> tuple[float, str | None]:
    """Run the kernel forwards and backwards beside the engine's own: the largest error, and why it is too large."""
    try:
        error = largest_error(kernel, work.heads, work.head_size, kernel.dtype, device)
    except (NotImplementedError, RuntimeError, ValueError) as failure:
        told = " ".join(str(failure).split())[:300]
        return float(
            "nan"
        ), f"its first call on {device} failed ({type(failure).__name__}: {told}): do without this plugin"
    if error <= TOLERANCES[kernel.dtype]:
        return error, None
    return error, (
        f"it gives other numbers than the engine's own attention: off by {error:.2g} of the largest value, expected at "
        f"most {TOLERANCES[kernel.dtype]:g} in {work.dtype}. The kernel is at fault: do without this plugin"
    )
