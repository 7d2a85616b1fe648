"""Metrics: recorded on the device, averaged over a few steps, fetched in one transfer."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from bigrun.peers.pace import Spell
from bigrun.peers.peers import Peers
from bigrun.peers.straggler import of_ranks
from bigrun.shards import whole
from bigrun.throughput import TIMINGS, Throughput

__all__ = ["TIMINGS", "Metrics", "means"]


class Metrics:
    """Scalars of the run by name.

    `record` keeps a value of the step being taken, without touching the host. `commit` accepts the step's values,
    `discard` forgets them (a skipped step leaves no trace in the curves). `flush` fetches and averages all accepted
    values since the last flush.
    """

    def __init__(
        self, every_steps: int, last_step: int | None, images_per_step: int, peers: Peers | None = None
    ) -> None:
        """`peers`: the processes whose values a flush averages."""
        self.peers = peers or Peers()
        self.every_steps = every_steps
        self.last_step = last_step
        self.throughput = Throughput(images_per_step)
        self._step: list[tuple[str, Tensor | float]] = []
        self._window: list[tuple[str, Tensor | float]] = []
        self.spells: list[Spell] = []
        """How fast each process was by itself up to the last `flush`, by rank; of several."""
        self.latest: dict[str, float] = {}
        """What the last `flush` gave, without the timings; of what was recorded when its step was over, the value of
        that step and not the mean. A measurement that is made for a checkpoint is of the checkpoint's networks."""

    def record(self, name: str, value: Tensor | float) -> None:
        """Keep a copy of a scalar of this step: a number, or a tensor of one element on any device. One that was
        computed from sharded weights (DTensor) is put together from the parts of all processes, which all record it.

        Raises:
            ValueError: the tensor has not one element.
        """
        if not isinstance(value, Tensor):
            self._step.append((name, float(value)))
        elif value.numel() == 1:
            self._step.append((name, whole(value.detach()).reshape(()).clone()))
        else:
            raise ValueError(f"metric {name!r}: expected a tensor of one element, got shape {tuple(value.shape)}")

    def record_all(self, values: Mapping[str, Tensor]) -> None:
        """Keep several scalars of this step."""
        for name, value in values.items():
            self.record(name, value)

    def record_loss(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Record every term as `loss/<name>` and their sum as `loss`; returns the sum, shape ()."""
        loss = torch.stack([term.float() for term in terms.values()]).sum()
        for name, term in terms.items():
            self.record(f"loss/{name}", term)
        self.record("loss", loss)
        return loss

    def waited(self, seconds: float) -> None:
        """Count time in which the step waited for data."""
        self.throughput.waited(seconds)

    def pending(self, names: Collection[str] | None = None) -> dict[str, float]:
        """The values of the step being taken, means over its micro-batches; only those of `names`, if given.
        Synchronises with the device."""
        return means([item for item in self._step if names is None or item[0] in names])

    def agreed(self, names: Collection[str] | None = None) -> dict[str, float]:
        """`pending`, as means over all processes, which call it together and get the same."""
        told = self.peers.gathered(self.pending(names))
        return means([item for values in told for item in values.items()])

    def items(self) -> list[tuple[str, Tensor | float]]:
        """What was recorded in the step being taken, where it is; a name once for every record."""
        return list(self._step)

    def begin_step(self) -> None:
        """Accept what was recorded after the last commit (in `after_update`, `after_step`): it is not this step's."""
        self._window += self._step
        self._step = []

    def commit(self) -> None:
        """Accept the step's values."""
        self._window += self._step
        self._step = []
        self.throughput.commit()

    def discard(self) -> None:
        """Forget the step's values."""
        self._step = []

    def due(self, step: int) -> bool:
        return step % self.every_steps == 0 or step == self.last_step

    def flush(self) -> dict[str, float]:
        """Averages since the last flush, and the throughput over that time: TIMINGS."""
        # The step that is over may have recorded after its commit (in after_update, after_step).
        self.share(self.peers.pace.take())
        items = _fetch(self._window + self._step)
        values = means(items)
        self.latest = values | means(items[len(self._window) :])
        self._step, self._window = [], []
        return values | self.throughput.flush() | (of_ranks(self.spells) if self.spells else {})

    def share(self, spell: Spell | None = None) -> None:
        """Put the mean of all processes in place of each value that was recorded since the last flush. All processes
        call it; those of a value that some do not record are the others."""
        if self.peers.size > 1:
            mine = None if spell is None else attrs.astuple(spell)
            told = self.peers.gathered([_fetch(self._window), _fetch(self._step), mine])
            windows, steps, spells = zip(*told, strict=True)
            self._window, self._step = shared(windows), shared(steps)
            self.spells = [Spell(*of_rank) for of_rank in spells if of_rank is not None]

    def measured(self, *, with_step: bool = True) -> dict[str, float]:
        """The newest values: `latest`, and what was recorded since the last commit (in `after_update`, `after_step`).

        Args:
            with_step: as for `state_dict`.
        """
        return self.latest | (means(self._step) if with_step else {})

    def state_dict(self, *, with_step: bool = True) -> dict[str, Any]:
        """The unflushed values as JSON, so that a resumed run writes the same rows as a straight one.

        Args:
            with_step: those recorded since the last commit as well: they belong to the step that is over, but not in
                the middle of one.
        """
        items = _fetch(self._window + self._step if with_step else self._window)
        finite = {name: value for name, value in self.latest.items() if math.isfinite(value)}
        return {
            "window": [[name, value if math.isfinite(value) else str(value)] for name, value in items],
            "latest": finite,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._step = []
        self._window = [(str(name), float(value)) for name, value in state["window"]]
        self.latest = dict(state.get("latest", {}))

    def restart_clock(self) -> None:
        """Begin measuring time now: what was built before the first step is not throughput."""
        self.throughput.restart_clock()


def _fetch(items: Sequence[tuple[str, Tensor | float]]) -> list[tuple[str, float]]:
    """Every value on the host, with one transfer from each device."""
    by_device: dict[torch.device, list[Tensor]] = {}
    for _, value in items:
        if isinstance(value, Tensor):
            by_device.setdefault(value.device, []).append(value.float())
    fetched = {device: iter(torch.stack(tensors).tolist()) for device, tensors in by_device.items()}
    return [(name, next(fetched[value.device]) if isinstance(value, Tensor) else value) for name, value in items]


def shared(items: Sequence[Sequence[tuple[str, float]]]) -> list[tuple[str, Tensor | float]]:
    """The k-th value of a name is the mean of the k-th ones of all processes."""
    values: dict[str, list[list[float]]] = {}
    for of_process in items:
        mine: dict[str, int] = {}
        for name, value in of_process:
            place = mine[name] = mine.get(name, -1) + 1
            columns = values.setdefault(name, [])
            if place == len(columns):
                columns.append([])
            columns[place].append(float(value))
    return [(name, sum(column) / len(column)) for name, columns in values.items() for column in columns]


def means(items: Sequence[tuple[str, Tensor | float]]) -> dict[str, float]:
    """The mean of every name's values, on the host."""
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for name, value in _fetch(items):
        sums[name] = sums.get(name, 0.0) + float(value)
        counts[name] = counts.get(name, 0) + 1
    return {name: sums[name] / counts[name] for name in sums}
