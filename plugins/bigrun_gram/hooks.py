"""The hook that this plugin declares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from bigrun.markers import hookspec

if TYPE_CHECKING:
    from bigrun.model.vit import VisionTransformer
    from bigrun.run import Run

__all__ = ["GramHooks"]


class GramHooks(Protocol):
    """What other plugins can answer: `@hookimpl(optionalhook=True)`, so that they load without this one too."""

    @hookspec(firstresult=True)
    def dense_score(self, run: Run, backbone: VisionTransformer) -> float | None:
        """Say how good the patch features of a candidate for the Gram teacher are, by labels that the plugin has.

        When: after a step whose teacher is a candidate, in `after_step`; not if the option `choose_by` names a metric.
        Called: on every process, until one plugin answers; `backbone` is in eval mode, on the run's device.
        Result: a finite number, higher is better; None to leave the choice to the scores without labels. Of several
            processes the main one's counts. It decides what is trained towards, so the plugin is no observer.
        If it raises: the run ends.
        """
