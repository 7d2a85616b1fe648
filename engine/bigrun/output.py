"""What the command line itself prints about a run: the header before it, the outcome after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bigrun.markers import hookimpl
from bigrun.terminal import say

if TYPE_CHECKING:
    from bigrun.run import Run

__all__ = ["Output"]


class Output:
    """Prints the header when everything is built, and one paragraph when the run is over."""

    def __init__(self, *, fresh: bool = False) -> None:
        self.fresh = fresh
        self.first_step = 0

    @hookimpl(tryfirst=True)
    def on_start(self, run: Run) -> None:
        self.first_step = run.step
        redactor = run.config.redactor()
        for line in run.header:
            say(redactor.text(line))

    def conclude(self, run: Run) -> None:
        """Say how the run ended, where its state is and how to go on; of several processes the main one does."""
        if not run.is_main:
            return
        if run.finished and run.step == self.first_step:
            say(f"this run is already finished at step {run.step}; --fresh starts another beside it")
        elif run.finished:
            say(f"finished: {run.step} optimizer steps, {run.position:,} images")
        else:
            how = f"--run-dir {run.directory} in place of --fresh" if self.fresh else "the same command"
            say(f"stopped after step {run.step} ({run.stop_reason}); {how} continues")
        if run.saved_step is not None:
            say(f"checkpoint: {run.checkpoints.path(run.saved_step)}")
        if (bad := run.bad_images.outcome(run)) is not None:
            say(f"bad images: {bad}")
        for failure in run.plugins.failures.values():
            error = run.config.redactor().text(failure.error)
            say(f"quarantined: {failure.plugin} failed in {failure.hook} at step {failure.step}: {error}")
