"""A step for which the device's memory does not suffice: the state is saved, and the run says what would fit.

With `hardware.on_oom = "halve"` it goes on by itself, in a new process: memory that an allocator has broken into
pieces, or that a crashed kernel holds, is free for certain only there. Several processes end, and are started again by
whoever has started them.
"""

from __future__ import annotations

import re
import time
import traceback
from typing import TYPE_CHECKING

from bigrun.errors import BigrunError, CheckpointError
from bigrun.micro_batch import MEMORY, cannot_halve, note_micro_batch
from bigrun.process import release_memory
from bigrun.start_again import Continuation

if TYPE_CHECKING:
    from bigrun.run import Run

__all__ = ["OutOfMemory", "is_out_of_memory", "relieve"]

TEXTS = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDA error: out of memory",
    "HIP error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "HIPBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
"""Of errors that do not come from torch's own allocator for GPUs."""


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
        if isinstance(error, torch.OutOfMemoryError | MemoryError):
            return True
        if isinstance(error, RuntimeError) and any(text in str(error) for text in TEXTS):
            return True
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False


def first_sentence(error: BaseException) -> str:
    """Torch says more, of which this file says the part that helps; on a CPU it begins with a line of its source."""
    text = re.sub(r"^\[enforce fail at [^\]]*\] err == 0\. ", "", str(error).strip())
    return text.partition("\n")[0].partition(". ")[0].removesuffix(".")


def relieve(run: Run, error: Exception) -> OutOfMemory | None:
    """Free what the step has left, save the state before it, and say what to do; None where that ends a run as it was
    asked to end, by a signal or because its time is over.

    The error's frames are emptied: they hold the step's tensors.
    """
    step, text = run.plugins.step, first_sentence(error)
    forget_step(run, error)
    saved = save_before_step(run)
    if run.peers.size == 1 and run.saved_step == run.step and stops(run):
        return None
    micro = run.config.data.micro_batch
    assert micro is not None
    obstacle = UPDATE if run.is_updating else cannot_halve(run)
    if run.config.hardware.on_oom == "halve" and obstacle is None:
        obstacle = note_micro_batch(run, micro // 2, step)
    halves = run.config.hardware.on_oom == "halve" and obstacle is None
    goes_on = halves and run.peers.size == 1  # the others cannot follow into a new process
    who = "a new process" if goes_on else f"the next start, by {MEMORY} in the run directory,"
    outcome = f"{who} goes on with micro-batches of {micro // 2} instead of {micro}, twice as many"
    if not halves:
        outcome = "; ".join(advice(run, obstacle))
    message = f"step {step} needs more memory than the device has ({text}); {saved}; {outcome}"
    run.event("out-of-memory", message, "warning" if goes_on else "error", micro_batch=micro, starts_again=goes_on)
    return OutOfMemory(message, Continuation.of(run) if goes_on else None)


UPDATE = (
    "it is the update for which there is no room, and a smaller one does not help: fewer bytes of optimizer states do"
)


def stops(run: Run) -> bool:
    """Whether somebody has asked the run to stop, or its time is over."""
    hours = run.config.run.max_hours
    if hours is not None and time.monotonic() - run.process.began >= 3600 * hours:
        run.request_stop("run.max_hours are over")
    return not run.continues()


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

    if run.peers.size > 1:  # the others are in the middle of the step, and could not take part
        return "the state before it is not saved by one of several processes: the newest checkpoint is what remains"
    if run.is_updating:
        newest = "there is none" if run.saved_step is None else f"that is the one of step {run.saved_step}"
        return f"the update had begun, so the newest checkpoint is what remains: {newest}"
    try:
        save_reached(run)
    except (CheckpointError, RuntimeError) as error:  # there may be no memory for that either
        return f"the state before it could not be saved ({first_sentence(error)})"
    if run.step == 0:
        return "there was no state to save before it"
    if run.saved_step == run.step:
        return "the state before it is saved"
    newest = (
        "there is no checkpoint"
        if run.saved_step is None
        else f"the newest checkpoint is that of step {run.saved_step}"
    )
    return f"the state before it could not be saved, and {newest}"


def advice(run: Run, obstacle: str | None) -> list[str]:
    """What makes a step smaller without making it another one: what the planner says of it, in no time and without the
    device's memory; in general terms where it knows nothing or fails, which must not hide that a step has failed."""
    try:
        lines = planned(run, obstacle)
    except Exception as error:
        lines = [*in_general(run, obstacle), f"the planner has no advice ({type(error).__name__}: {error})"]
    return [*lines, "`bigrun plan` says what fits"]


def planned(run: Run, obstacle: str | None) -> list[str]:
    """With numbers: the largest micro-batches that should fit, and what could be spared at any."""
    from bigrun.planner.remedies import shortfall_of, what_fits
    from bigrun.planner.savings import savings_line, savings_of

    spared = savings_line(savings_of(run, lambda tensor: tensor.device.type == run.device.type))
    if obstacle is UPDATE:
        return [UPDATE, *([spared] if spared else [])]
    shortfall = shortfall_of(run)
    if shortfall is None:
        lines = in_general(run, obstacle)
    else:
        by_itself = 'hardware.on_oom = "halve" halves the micro-batch by itself'
        lines = [*what_fits(shortfall), by_itself if obstacle is None else cannot(obstacle)]
    return [*lines, *([spared] if spared else [])]


def cannot(obstacle: str) -> str:
    return f"data.micro_batch cannot be halved: {obstacle}"


def in_general(run: Run, obstacle: str | None) -> list[str]:
    """The least costly first."""
    config, micro = run.config, run.config.data.micro_batch
    assert micro is not None
    mode = config.hardware.activation_checkpointing
    more = {"none": '"selective" or "full"', "selective": '"full"'}.get(mode)
    if obstacle is UPDATE:
        return [UPDATE]
    lines = [f'hardware.activation_checkpointing = {more} (now "{mode}") computes the same with less'] if more else []
    if obstacle is None:
        lines.append(
            f"data.micro_batch = {micro // 2} (now {micro}) halves what a step keeps, and leaves effective batch and "
            'objective as they are; hardware.on_oom = "halve" does that by itself'
        )
    else:
        lines.append(cannot(obstacle))
    return lines
