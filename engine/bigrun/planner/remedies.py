"""What would fit where a step has just failed for lack of memory: by the closed form, in no time and without the
device. Torch-free but for what reads a run."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from typing import TYPE_CHECKING

import attrs

from bigrun.devices.allocator import allocator_settings
from bigrun.devices.memory import read_memory
from bigrun.planner.closed_form import StepMemory
from bigrun.planner.memory import OUTSIDE_BYTES, device_bytes, has_growing_segments
from bigrun.planner.plan import Fit
from bigrun.planner.regrouping import KOLEO_GROUP, regrouping
from bigrun.planner.sizes import human_gib
from bigrun.same_objective import micro_batches

if TYPE_CHECKING:
    from bigrun.model.activation_checkpointing import ActivationCheckpointing
    from bigrun.run import Run

__all__ = ["Shortfall", "limit_bytes", "modes_of", "shortfall_of", "what_fits"]

MODES: tuple[ActivationCheckpointing, ...] = ("none", "selective", "full")
CLEARLY = 0.9
"""A need of less than this share of what is there is no reason to fail, and one of this share of a need is less than
that for certain: the closed form is at most 3 % too low and 7 % too high."""


@attrs.frozen
class Shortfall:
    """A step for which the memory did not suffice."""

    form: StepMemory
    backend: str
    limit_bytes: int
    """That this process can have of the device, the context and libraries outside of torch's allocator included."""
    more_bytes: float = 0.0
    """What networks and optimizer hold beyond what the closed form takes for them."""
    processes: int = 1
    segments_grow: bool = False
    """Of torch's allocator, which then wastes less."""
    modes: tuple[ActivationCheckpointing, ...] = MODES
    """That the run takes."""

    @property
    def failed(self) -> tuple[int, ActivationCheckpointing]:
        config = self.form.config
        assert config.data.micro_batch is not None
        return config.data.micro_batch, config.hardware.activation_checkpointing

    def need_bytes(self, micro_batch: int, mode: ActivationCheckpointing) -> int:
        """Of the device."""
        tensors = max(self.form.peak_bytes(micro_batch, mode) + self.more_bytes, 0)
        return device_bytes(tensors, self.backend, grows=self.segments_grow)

    @property
    def most_bytes(self) -> int:
        """What a step may need by the closed form: clearly less than the one that failed, whatever the limit is."""
        return min(self.limit_bytes, round(CLEARLY * self.need_bytes(*self.failed)))

    def fits(self) -> list[Fit]:
        """The largest micro-batch that fits in each way of activation checkpointing, the least first. None with less of
        it than the step that failed: what plugins spare with it the closed form does not know."""
        config, found = self.form.config, []
        share, least = config.data.effective_batch // self.processes, MODES.index(self.failed[1])
        sizes = micro_batches(config, self.processes)
        for mode in (mode for mode in self.modes if MODES.index(mode) >= least):
            size = max((size for size in sizes if self.need_bytes(size, mode) <= self.most_bytes), default=None)
            if size is not None:
                fit = Fit(mode, size, share // size, self.need_bytes(size, mode), regrouping(config, size))
                found.append(fit)
        return found


def what_fits(shortfall: Shortfall) -> Iterator[str]:
    """What the step needed, and what needs less with the same effective batch."""
    need, limit = shortfall.need_bytes(*shortfall.failed), shortfall.limit_bytes
    text = f"by the planner's closed form such a step takes {human_gib(need)}, and this process can have "
    text += human_gib(limit)
    if need < CLEARLY * limit:
        text += ": something else must have taken the memory, or broken it into pieces"
    yield f"{text}; what plugins spare within a step is not counted"
    own, fits = shortfall.failed[1], shortfall.fits()
    if not fits:
        smallest = min(micro_batches(shortfall.form.config, shortfall.processes), default=shortfall.failed[0])
        least = human_gib(shortfall.need_bytes(smallest, "full"))
        text = f"no micro-batch fits by it, not even {smallest} with activation checkpointing full, which takes {least}"
        yield f"{text}; smaller ones would change objective.koleo_group" if smallest > 1 else text
        return
    batch = shortfall.form.config.data.effective_batch
    yield f"what fits by it, with the same effective batch of {batch}: {', or '.join(option(fit, own) for fit in fits)}"


def option(fit: Fit, own: str) -> str:
    other = fit.activation_checkpointing != own
    mode = f' and hardware.activation_checkpointing = "{fit.activation_checkpointing}"' if other else ""
    mode += f" and {KOLEO_GROUP} = {fit.regrouping.own}" if fit.regrouping is not None else ""
    shape = f"{fit.micro_batch} x {fit.accumulate}, {human_gib(fit.need_bytes)}"
    return f"data.micro_batch = {fit.micro_batch}{mode} ({shape})"


# -- of a run ---------------------------------------------------------------------------------------------------


def shortfall_of(run: Run) -> Shortfall | None:
    """Of a run whose step has failed, when that has been let go of; None where a plugin brings the objective, of whose
    memory nothing is known."""
    if "objective" in run.config.replaced:
        return None
    form = StepMemory(run.config)
    return Shortfall(
        form,
        run.facts.backend,
        limit_bytes(run),
        held_bytes(run) - form.static_bytes,
        run.strategy.world_size,
        grows(),
        modes_of(run),
    )


def grows() -> bool:
    """Whether the segments of torch's allocator do, by its own word."""
    found = (allocator_settings() or {}).get("expandable_segments")
    return has_growing_segments(os.environ) if found is None else bool(found)


def modes_of(run: Run) -> tuple[ActivationCheckpointing, ...]:
    """A strategy that a plugin brings may go backward twice, which torch refuses with `selective`."""
    is_own = type(run.strategy).__module__.partition(".")[0] == "bigrun"
    return MODES if is_own else tuple(mode for mode in MODES if mode != "selective")


def held_bytes(run: Run) -> int:
    """Of networks and optimizer on the device; of its states what they will take, where there are none yet."""
    from bigrun.checkpoint.optimizer_state import expected_state_bytes

    modules = [run.objective, run.objective.teacher, *run.frozen.values()]
    tensors = [t for module in modules for t in (*module.parameters(), *module.buffers())]
    held = {id(t): t.nbytes for t in tensors if t.device.type == run.device.type}
    return sum(held.values()) + expected_state_bytes(run.optimizer)


def limit_bytes(run: Run) -> int:
    """What this process can have: of a GPU what is free and what torch has, and no more than it may take; of the
    machine's memory no more than `ulimit -v` says."""
    total = run.facts.total_bytes
    if run.device.type != "cuda":
        allowed, _ = resource.getrlimit(resource.RLIMIT_AS)
        return total if allowed == resource.RLIM_INFINITY else min(total, allowed)
    import torch

    with contextlib.suppress(RuntimeError):  # of a driver that does not answer any more
        memory = read_memory(run.device, is_unified=run.facts.is_unified)
        allowed = round(memory.total_bytes * torch.cuda.get_per_process_memory_fraction(run.device))
        had = memory.free_bytes + torch.cuda.memory_reserved(run.device)
        return min(min(had, allowed) + OUTSIDE_BYTES, memory.total_bytes)
    return total
