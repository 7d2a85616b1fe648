"""The training loop: the one file that knows the order of things.

    before_step
        teacher targets for the whole window                 once per step
        forward, loss_terms, backward, after_backward        once per micro-batch
    before_update, optimizer, teacher, after_update          unless the step is skipped
    after_step, [on_metrics], [save, on_checkpoint]

A step is an optimizer step. Its window is the micro-batches that are accumulated for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bigrun.anomaly import Action, nonfinite
from bigrun.answers import ask, merged
from bigrun.errors import TrainingHalted

if TYPE_CHECKING:
    from torch import Tensor

    from bigrun.data.dataset import Batch
    from bigrun.run import Run

__all__ = ["take_step", "train"]


def train(run: Run) -> None:
    """Take steps until the run has all of them or is asked to stop; the last state is always saved."""
    while run.continues():
        step = run.step + 1
        take_step(run, step)
        run.step = step
        run.hook.after_step(run=run, step=step)
        if run.metrics.due(step):
            run.hook.on_metrics(run=run, step=step, metrics=run.metrics.flush())
        if run.save_due(step):
            save(run, step)
    if run.saved_step != run.step:
        save(run, run.step)


def take_step(run: Run, step: int) -> None:
    """One optimizer step over `run.accumulate` micro-batches."""
    run.begin_step(step)  # schedules, and the step that errors and events name
    window = run.next_window()
    run.hook.before_step(run=run, step=step)
    run.reseed(step, micro=-1)
    with run.strategy.precision():
        ask(run, "prepare", step, window)  # no grad: Sinkhorn sees the effective batch
    finite = [accumulate(run, step, micro, batch) for micro, batch in enumerate(window)]
    grad_norm = run.clip_gradients()
    # The step's one decision of all processes; the host waits here for the device.
    healthy = run.agree([*finite, grad_norm.isfinite()])
    if healthy:
        run.hook.before_update(run=run, step=step, grad_norm=grad_norm)
    if healthy and not run.reported:
        update(run, step)
    else:
        judge(run, step)
    run.optimizer.zero_grad(set_to_none=True)


def accumulate(run: Run, step: int, micro: int, batch: Batch) -> Tensor:
    """Add the gradients of one micro-batch; returns whether its loss was finite, on the device, shape ()."""
    run.reseed(step, micro)
    with run.strategy.micro_batch(synchronize=micro == run.accumulate - 1):
        outputs = ask(run, "forward", batch, micro)
        more = run.hook.loss_terms(run=run, step=step, micro=micro, batch=batch, outputs=outputs)
        loss = run.metrics.record_loss(merged([ask(run, "loss_terms", outputs), *more], "loss term"))
        if run.metrics.due(step):
            run.metrics.record_all(ask(run, "statistics", outputs))
        run.strategy.backward(loss / run.accumulate)
    run.hook.after_backward(run=run, step=step, micro=micro)
    return loss.detach().isfinite()


def update(run: Run, step: int) -> None:
    """Change the student, then let the teacher follow."""
    run.optimizer.step()
    ask(run, "update_teacher")
    run.metrics.commit()
    run.skipped_in_a_row = 0
    run.hook.after_update(run=run, step=step)


def judge(run: Run, step: int) -> None:
    """A step that may not touch the weights: ask what to do, say so, do it."""
    anomaly = run.take_report() or nonfinite(step, run.metrics.pending())
    action = run.hook.on_anomaly(run=run, anomaly=anomaly)
    run.metrics.discard()
    run.skipped_in_a_row += 1
    run.event("anomaly", f"step {step}: {anomaly.message}", level="warning", action=action.value, **anomaly.evidence)
    if action is Action.HALT:
        raise TrainingHalted(f"halted at step {step}: {anomaly.message}")


def save(run: Run, step: int) -> None:
    """Publish a verified checkpoint."""
    path = run.save()
    run.hook.on_checkpoint(run=run, step=step, path=path)
