"""The hook that this plugin declares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from bigrun.markers import hookspec

if TYPE_CHECKING:
    from bigrun.anomaly import Anomaly
    from bigrun.run import Run

__all__ = ["GuardHooks"]


class GuardHooks(Protocol):
    """What other plugins can answer: `@hookimpl(optionalhook=True)`, so that they load without this one too."""

    @hookspec
    def diagnoses(self, run: Run, step: int) -> list[Sequence[Anomaly]]:
        """Say what is wrong now, by what the plugin has measured: anomaly-guard decides what is done about it.

        When: in `on_metrics`, at every row of metrics, before the guard judges the row itself. What is said before the
            last warm-up is over, and `settle_steps` later, is passed over.
        Called: on the main process; all answers are collected.
        Result: an `Anomaly` for each condition that lasts, again and again while it does. Its `kind` is one of the
            guard's, whose ladder then answers, or one that somebody else answers; its `step` that of the measurement
            that has shown it last, its `onset` the first; kind and names of its evidence tell one condition from
            another. The guard holds it back until it has lasted `hold_steps`, reminds of it every `remind_steps`, and
            says when it is over. While anything of a kind lasts, whoever sees it, it is one occurrence on the kind's
            ladder, and one more with each reminder. A ladder that halts ends the run on an observer's word.
        If it raises, or answers something else: critical plugin: the run ends; observer: it is quarantined.
        """
