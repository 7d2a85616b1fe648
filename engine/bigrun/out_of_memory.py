"""A step for which the device's memory does not suffice: the state is saved, and the run says what would fit.

With `hardware.on_oom = "halve"` it goes on by itself, in a new process: memory that an allocator has broken into
pieces, or that a crashed kernel holds, is free for certain only there.
"""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING

from bigrun.errors import BigrunError, CheckpointError
from bigrun.micro_batch import cannot_halve, note_micro_batch
from bigrun.process import release_memory
from bigrun.start_again import Continuation

if TYPE_CHECKING:
    from bigrun.run import Run

__all__ = ["OutOfMemory", "is_out_of_memory", "relieve"]

CPU_TEXTS = ("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory")


class OutOfMemory(BigrunError):
    """The device has no memory for a step."""

    def __init__(self, message: str, continuation: Continuation | None) -> None:
        """
        Args:
            continuation: how a new process is to go on, with the micro-batch that was noted in the run directory.
        """
        super().__init__(message)
        self.continuation = continuation


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or what has led to it, is torch's word for that."""
    import torch

    while error is not None:
        if isinstance(error, torch.OutOfMemoryError):
            return True
        if isinstance(error, RuntimeError) and any(text in str(error) for text in CPU_TEXTS):
            return True
        error = error.__cause__ or error.__context__
    return False


def first_sentence(error: BaseException) -> str:
    """Torch says more, of which this file says the part that helps."""
    return str(error).strip().partition("\n")[0].partition(". ")[0].removesuffix(".")


def relieve(run: Run, error: Exception) -> OutOfMemory:
    """Free what the step has left, save the state before it, and say what to do.

    The error's frames are emptied: they hold the step's tensors.
    """
    step, text = run.plugins.step, first_sentence(error)
    forget_step(run, error)
    saved = save_before_step(run)
    micro = run.config.data.micro_batch
    assert micro is not None
    obstacle = cannot_halve(run)
    halves = run.config.hardware.on_oom == "halve" and obstacle is None
    if halves:
        note_micro_batch(run, micro // 2, step)
        outcome = f"a new process goes on with micro-batches of {micro // 2} instead of {micro}, twice as many"
    else:
        outcome = "; ".join(advice(run, obstacle))
    message = f"step {step} needs more memory than the device has ({text}); {saved}; {outcome}"
    run.event("out-of-memory", message, "warning" if halves else "error", micro_batch=micro, starts_again=halves)
    return OutOfMemory(message, Continuation.of(run) if halves else None)


def forget_step(run: Run, error: BaseException) -> None:
    chain: BaseException | None = error
    while chain is not None:
        traceback.clear_frames(chain.__traceback__)
        chain = chain.__cause__ or chain.__context__
    run.optimizer.zero_grad(set_to_none=True)
    run.metrics.discard()
    run.images_taken, run.samples = 0, []
    run.incidents.take()
    release_memory()


def save_before_step(run: Run) -> str:
    """What became of the state."""
    from bigrun.loop import save_reached

    if run.is_updating:
        return "the update had begun, so the newest checkpoint is what remains"
    try:
        save_reached(run)
    except (CheckpointError, RuntimeError) as error:  # there may be no memory for that either
        return f"the state before it could not be saved ({first_sentence(error)})"
    return "the state before it is saved" if run.saved_step else "there was no state to save before it"


def advice(run: Run, obstacle: str | None) -> list[str]:
    """What makes a step smaller without making it another one, the least costly first."""
    config, micro = run.config, run.config.data.micro_batch
    assert micro is not None
    mode = config.hardware.activation_checkpointing
    more = {"none": '"selective" or "full"', "selective": '"full"'}.get(mode)
    lines = [f'hardware.activation_checkpointing = {more} (now "{mode}") computes the same with less'] if more else []
    if obstacle is None:
        lines.append(
            f"data.micro_batch = {micro // 2} (now {micro}) halves what a step keeps, and leaves effective batch and "
            'objective as they are; hardware.on_oom = "halve" does that by itself'
        )
    else:
        lines.append(f"data.micro_batch cannot be halved: {obstacle}")
    return [*lines, "`bigrun plan` says what fits"]
