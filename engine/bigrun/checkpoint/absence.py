"""What is said of a place that holds no checkpoint. Torch-free."""

from __future__ import annotations

from pathlib import Path

from bigrun.checkpoint.layout import CHECKPOINTS, is_run

__all__ = ["no_checkpoint"]


def no_checkpoint(place: Path) -> str:
    """`runs/x: this run has no checkpoint yet; ...`, or what was expected where no run was begun."""
    run = place.parent if place.name == CHECKPOINTS else place
    if is_run(run):
        return (
            f"{run}: this run has no checkpoint yet; it saves its first after run.checkpoint_every_steps steps, at its "
            "end, or when it is told to stop (Ctrl-C, or SIGTERM): wait for that, or stop it; the same command "
            "continues it"
        )
    return f"{place}: holds no checkpoint; expected a run directory, such as runs/my_run, or one of its checkpoints"
