"""How often a step makes the host wait for the device, by torch's own account (torch.cuda.set_sync_debug_mode)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from bigrun import hookimpl
from gpu_checks.check import Figures

if TYPE_CHECKING:
    from bigrun.run import Run
    from gpu_checks.subject import Subject

__all__ = ["measure", "problems"]

STEPS, WARM_UP = 4, 3
ALLOWED = 1.0
"""The step's one decision of all processes."""


WARNING = "called a synchronizing"
"""Torch warns with other words of the mode itself."""


class Watch:
    """Has torch warn of everything that waits, from one step to the end of another."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last

    @hookimpl(tryfirst=True)
    def before_step(self, run: Run, step: int) -> None:
        if step == self.first:
            self._set("warn")

    @hookimpl(trylast=True)
    def after_step(self, run: Run, step: int) -> None:
        if step == self.last:
            self._set("default")

    @staticmethod
    def _set(mode: str) -> None:
        import torch

        torch.cuda.set_sync_debug_mode(mode)


def measure(subject: Subject) -> Figures:
    subject.require_gpu("torch counts waits for a GPU")
    from gpu_checks.recipe import document
    from gpu_checks.steps import Steps, all_warnings, train

    # Of real views, and of steps whose numbers are not logged: a log fetches them.
    preset = document(subject, "vit_small", 32, ["run.log_every_steps=100000"])
    with all_warnings() as found:
        train(preset, Steps(STEPS, WARM_UP, ready=False), [Watch(WARM_UP + 1, WARM_UP + STEPS)])
    waits = [warning for warning in found if WARNING in str(warning.message)]
    places = Counter(f"{w.filename.rpartition('/')[2]}:{w.lineno}" for w in waits)
    return {"steps": STEPS, "waits": len(waits), "where": dict(places.most_common(12))}


def problems(figures: Mapping[str, Any]) -> Iterator[str]:
    each = figures["waits"] / figures["steps"]
    if each > ALLOWED:
        yield f"the host waits {each:.1f} times a step: {figures['where']}"
    if each == 0:
        yield "torch has counted no wait at all, not even that for the decision: it counts nothing here"
