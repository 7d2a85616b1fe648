"""The training loop: the one file that knows the order of things.

    before_step
        teacher targets for the whole window                 once per step
        forward, loss_terms, backward, after_backward        once per micro-batch
    before_update, [on_anomaly]
    optimizer, teacher, after_update                         unless the step is skipped
    after_step, [on_metrics], [on_anomaly], [save], [on_checkpoint of one that is on the disk]

A step is an optimizer step. Its window is the micro-batches that are accumulated for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bigrun.anomaly import Action, nonfinite
from bigrun.answers import ask, merged
from bigrun.errors import DataError
from bigrun.response import answered, respond
from bigrun.window import next_window

if TYPE_CHECKING:
    from torch import Tensor

    from bigrun.data.dataset import Batch
    from bigrun.run import Run

__all__ = ["take_step", "train"]


def train(run: Run) -> None:
    """Take steps until the run has all of them or is asked to stop; the last state is always saved."""
    try:
        take_steps(run)
    except DataError as error:
        if run.peers.knows(error):  # all are here, and nothing is wrong with the weights
            save_reached(run)
        raise
    save_last(run)


def take_steps(run: Run) -> None:
    """The steps, and what follows each of them."""
    while run.continues():
        step = run.step + 1
        take_step(run, step)
        run.end_step(step)
        run.hook.after_step(run=run, step=step)
        if run.metrics.due(step):
            run.tell_metrics(step)
        judge(run)
        if run.saver.due(step) and run.continues():
            run.saver.save(run)
        announce_checkpoints(run)


def take_step(run: Run, step: int) -> None:
    """One optimizer step over `run.accumulate` micro-batches."""
    run.begin_step(step)  # schedules, and the step that errors and events name
    window = next_window(run)
    run.hook.before_step(run=run, step=step)
    run.reseed(step, micro=-1)
    with run.peers.pace.together(), run.strategy.whole(), run.strategy.precision():
        ask(run, "prepare", step, window)  # no grad: Sinkhorn sees the effective batch
    finite = [accumulate(run, step, micro, batch) for micro, batch in enumerate(window)]
    grad_norm = run.clip_gradients()
    # The step's one decision of all processes; the host waits here for the device.
    is_finite = run.agree([*finite, grad_norm.isfinite()])
    if is_finite:
        run.hook.before_update(run=run, step=step, grad_norm=grad_norm)
    else:
        run.report_anomaly(nonfinite(step, run.metrics.pending()))
    if judge(run) is Action.WARN and is_finite:
        update(run, step)
    else:
        skip(run)
    run.optimizer.zero_grad(set_to_none=True)


def accumulate(run: Run, step: int, micro: int, batch: Batch) -> Tensor:
    """Add the gradients of one micro-batch; returns whether its loss was finite, on the device, shape ()."""
    run.reseed(step, micro)
    with run.strategy.micro_batch(synchronize=micro == run.accumulate - 1):
        with run.strategy.precision():
            loss = run.strategy.differentiate(lambda: loss_of(run, step, micro, batch))
        # Outside of autocast, which would cast the gradients of a loss term's fp32 products to bf16.
        run.strategy.backward(loss / run.accumulate)
    run.hook.after_backward(run=run, step=step, micro=micro)
    return loss.detach().isfinite()


def loss_of(run: Run, step: int, micro: int, batch: Batch) -> Tensor:
    """The loss of a micro-batch, shape (), and what is recorded with it."""
    outputs = ask(run, "forward", batch, micro)
    more = run.hook.loss_terms(run=run, step=step, micro=micro, batch=batch, outputs=outputs)
    loss = run.metrics.record_loss(merged([ask(run, "loss_terms", outputs), *more], "loss term"))
    if run.metrics.due(step):
        with run.peers.pace.together():
            run.metrics.record_all(ask(run, "statistics", outputs))
    return loss


def update(run: Run, step: int) -> None:
    """Change the student, then let the teacher follow."""
    run.is_updating = True
    run.optimizer.step()
    ask(run, "update_teacher")
    run.metrics.commit()
    run.incidents.skipped_in_a_row = 0
    run.hook.after_update(run=run, step=step)


def skip(run: Run) -> None:
    """Leave student and teacher as they are; the step leaves no trace in the curves."""
    run.metrics.discard()
    run.incidents.skipped_in_a_row += 1


def judge(run: Run) -> Action:
    """Ask what to do about everything that was reported, and do it; WARN where nothing was."""
    return respond(run, answered(run, run.exchange(run)))


def save_last(run: Run) -> None:
    """Save the state in which the run ends, and wait until it is on the disk."""
    announce_checkpoints(run, wait=True)
    if not run.saver.is_saved(run):
        run.saver.save(run)
        announce_checkpoints(run, wait=True)
    if not run.saver.is_saved(run):
        raise run.peers.alike(run.saver.lost(run.step))


def save_reached(run: Run) -> None:
    """Save the state before the step that could not be taken, if there is any that a checkpoint has not."""
    announce_checkpoints(run, wait=True)
    if run.step > 0 and not run.saver.is_saved(run):
        run.saver.save(run)
    announce_checkpoints(run, wait=True)


def announce_checkpoints(run: Run, *, wait: bool = False) -> None:
    """Tell of checkpoints that were published since."""
    for step, path in run.saver.written(run, wait=wait):
        run.hook.on_checkpoint(run=run, step=step, path=path)
