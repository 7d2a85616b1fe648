"""One of several processes that have whole networks (DDP), in a rehearsal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from bigrun.planner.labels import trained
from bigrun.planner.memory import BUCKETS
from bigrun.planner.process import RehearsalProcess

if TYPE_CHECKING:
    from bigrun.run import Run

__all__ = ["RehearsedReplica"]


class RehearsedReplica(RehearsalProcess):
    """Has buckets for all gradients from the beginning; in the last micro-batch of a step each gradient moves there.

    Those of earlier micro-batches are beside the buckets: torch leaves them alone until they are to be summed over the
    processes, and `zero_grad` has let go of the buckets' views.
    """

    def share(self, run: Run) -> None:
        learning = [parameter for parameter in trained(run) if parameter.requires_grad]
        self.live.device.add(BUCKETS, sum(parameter.nbytes for parameter in learning))
        for parameter in learning:
            parameter.register_post_accumulate_grad_hook(self._move)  # type: ignore[no-untyped-call]

    def _move(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        self.live.resize(parameter.grad, 0)
