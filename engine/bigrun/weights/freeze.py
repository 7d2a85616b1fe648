"""A backbone that waits until new heads have learned something."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bigrun.run import Run

__all__ = ["hold_backbone"]


def hold_backbone(run: Run, step: int) -> None:
    """Keep the student's backbone as it is during the first `init.freeze_backbone_steps`, and let it go after them.

    Its parameters have no gradient then: AdamW leaves such alone, decay included, and the backward pass ends at the
    heads. So the teacher's backbone, equal at the start, stays too. A function of the step alone, as a resumed run
    needs it.
    """
    steps = run.config.init.freeze_backbone_steps
    if not steps or step > steps + 1:
        return
    run.objective.student.backbone.requires_grad_(step > steps)
    if step > steps:
        run.event("backbone-released", f"the backbone learns from step {step} on")
