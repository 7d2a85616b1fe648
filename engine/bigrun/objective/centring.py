"""What keeps the teacher from giving every image the same assignment: a bias on its prototypes, from the whole step."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from bigrun.objective.sinkhorn import sinkhorn_bias
from bigrun.objective.targets import KEPT_ELEMENTS, parts, rows_at_once

__all__ = ["Centring", "SinkhornKnopp", "SoftmaxCentring"]


class Centring(nn.Module, abc.ABC):
    """Chooses the bias r of targets = softmax(X / T + r). State, if any, is in buffers and saved with the run."""

    group: dist.ProcessGroup | None = None
    """Processes that share a step; None: one process."""

    @abc.abstractmethod
    def bias(self, rows: Sequence[Tensor], prototypes: Tensor, temperature: float) -> Tensor:
        """r (K,) float32 for the rows of a step.

        Args:
            rows: the teacher's bottlenecks (n, e), a tensor for each micro-batch.
            prototypes: of the teacher (K, e).
            temperature: T of the teacher.
        """

    @abc.abstractmethod
    def look(self, rows: Tensor, prototypes: Tensor, temperature: float) -> Tensor:
        """As `bias`, for rows (n, e) that belong to no step: nothing is remembered of them, and no other process is
        asked."""

    def commit(self) -> None:
        """The step has updated the weights: what was seen of it counts from now on."""


class SinkhornKnopp(Centring):
    """Balances the rows of the step, and of `queue` rows of earlier steps, over the prototypes.

    Queued rows only take part in the balance (SwAV, arXiv 2006.09882, section 4.1): they are older teachers' rows
    under the present prototypes.
    """

    queue: Tensor  # (Q, e), the newest first; rows that no step has filled are zero, and no bottleneck is

    def __init__(self, iterations: int, bottleneck: int, queue_rows: int = 0) -> None:
        super().__init__()
        self.iterations = iterations
        self.pending: list[Tensor] = []
        if queue_rows:
            self.register_buffer("queue", torch.zeros(queue_rows, bottleneck))
        self.filled: int | None = None  # rows of the queue; counted once, so that no step waits for the device

    @property
    def has_queue(self) -> bool:
        return "queue" in self._buffers

    def bias(self, rows: Sequence[Tensor], prototypes: Tensor, temperature: float) -> Tensor:
        everything = list(rows)
        if self.has_queue:
            if self.filled is None:
                self.filled = int((self.queue != 0).any(1).sum())
            if self.group is None or dist.get_rank(self.group) == 0:  # all processes have the same, which counts once
                everything.append(self.queue[: self.filled].to(rows[0].dtype))
            self.pending = list(rows)
        return sinkhorn_bias(chunked(everything, prototypes), temperature, self.iterations, self.group)

    def look(self, rows: Tensor, prototypes: Tensor, temperature: float) -> Tensor:
        return sinkhorn_bias(chunked([rows], prototypes), temperature, self.iterations)

    def commit(self) -> None:
        if self.has_queue and self.pending and self.filled is not None:
            rows = self._of_all(torch.cat(self.pending).to(self.queue.dtype))
            self.queue.copy_(torch.cat([rows, self.queue])[: len(self.queue)])
            self.filled = min(self.filled + len(rows), len(self.queue))
            self.pending = []

    def _of_all(self, rows: Tensor) -> Tensor:
        """The rows of all processes, by rank; each has as many."""
        if self.group is None:
            return rows
        found = [torch.empty_like(rows) for _ in range(dist.get_world_size(self.group))]
        dist.all_gather(found, rows, group=self.group)  # torch 2.13 warns of the one into a single tensor
        return torch.cat(found)


class SoftmaxCentring(Centring):
    """r = -c / T, where the centre c is a moving average of the teacher's mean logits (DINO, arXiv 2104.14294, eq. 4).

    A step is centred by the steps before it, not by itself.
    """

    centre: Tensor  # (K,) float32

    def __init__(self, prototypes: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("centre", torch.zeros(prototypes))
        self.pending: Tensor | None = None

    @torch.no_grad()
    def bias(self, rows: Sequence[Tensor], prototypes: Tensor, temperature: float) -> Tensor:
        everything = torch.cat([r.float() for r in rows])
        total = torch.cat([everything.sum(0), everything.new_full((1,), len(everything))])
        if self.group is not None:
            dist.all_reduce(total, group=self.group)
        with torch.autocast(total.device.type, enabled=False):
            # The mean of the logits is the logits of the mean.
            logits = F.linear(total[:-1] / total[-1].clamp(min=1), prototypes.float())
        self.pending = torch.where(total[-1] > 0, logits, self.centre)
        return -self.centre / temperature

    def look(self, rows: Tensor, prototypes: Tensor, temperature: float) -> Tensor:
        return -self.centre / temperature

    def commit(self) -> None:
        if self.pending is not None:
            self.centre.lerp_(self.pending, 1 - self.momentum)
            self.pending = None


def chunked(rows: Sequence[Tensor], prototypes: Tensor) -> Callable[[], Iterator[Tensor]]:
    """The logits (m, K) of all rows at every call: kept when they are few, else computed anew."""

    def chunks() -> Iterator[Tensor]:
        for some in rows:
            for part in parts(0, len(some), rows_at_once(len(prototypes), prototypes.device)):
                yield F.linear(some[part], prototypes)

    if sum(map(len, rows)) * len(prototypes) > KEPT_ELEMENTS:
        return chunks
    kept = list(chunks())
    return lambda: iter(kept)
