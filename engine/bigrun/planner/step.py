"""The step of a run that takes the most memory, as the loop would take it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from bigrun import loop
from bigrun.answers import ask
from bigrun.planner.labels import label_frozen, trained
from bigrun.planner.memory import GRADIENTS
from bigrun.window import next_window

if TYPE_CHECKING:
    from bigrun.planner.live_bytes import LiveBytes
    from bigrun.planner.process import RehearsalProcess
    from bigrun.run import Run

__all__ = ["take_heaviest_step"]

FAR = 10**9
"""A step at which everything in a run without end has begun."""


def take_heaviest_step(run: Run, live: LiveBytes) -> None:
    """As `loop.take_step`, of which two things are left out that change nothing at the peak: the micro-batches between
    the first, before which there are no gradients, and the last; and all but one of the teacher's blocks, which leave
    nothing behind.
    """
    last = run.max_steps or FAR // run.metrics.every_steps * run.metrics.every_steps
    settle(run, live, max(last - 1, 1))
    live.restart()
    run.begin_step(last)
    window = next_window(run)
    run.hook.before_step(run=run, step=last)
    with one_block(run), run.strategy.precision(), run.strategy.whole():
        ask(run, "prepare", last, window)
    if len(window) > 1:
        give_gradients(run, live)
    finite = [loop.accumulate(run, last, len(window) - 1, window[-1])]
    run.agree([*finite, run.clip_gradients().isfinite()])
    with rehearsed(run).updating():
        loop.update(run, last)


def settle(run: Run, live: LiveBytes, step: int) -> None:
    """Update once with any gradients: the optimizer has its state from then on, and plugins have what they keep."""
    run.begin_step(step)
    give_gradients(run, live)
    with rehearsed(run).updating():
        loop.update(run, step)
    run.optimizer.zero_grad(set_to_none=True)
    run.end_step(step)
    label_frozen(run, live)  # one may have been given storage


def rehearsed(run: Run) -> RehearsalProcess:
    return cast("RehearsalProcess", run.strategy)


def give_gradients(run: Run, live: LiveBytes) -> None:
    """As an earlier micro-batch would have left them."""
    with live.during(GRADIENTS):
        for parameter in trained(run):
            if parameter.grad is None and parameter.requires_grad:
                parameter.grad = torch.empty_like(parameter)


@contextlib.contextmanager
def one_block(run: Run) -> Iterator[None]:
    """A teacher of its own with its first block only: without gradients a block frees what the one before has left."""
    teacher = run.objective.teacher
    blocks = getattr(teacher.backbone, "blocks", None)
    if teacher is run.objective.student or not isinstance(blocks, nn.ModuleList):
        yield
        return
    teacher.backbone.blocks = blocks[:1]
    try:
        yield
    finally:
        teacher.backbone.blocks = blocks
