"""memory-guard: says before the memory is full what fills it, and what to change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from bigrun import hookimpl, option
from bigrun.options import between
from bigrun_memory.judge import HOST, Limits, judge
from bigrun_memory.prediction import Prediction
from bigrun_memory.reading import Reading, peak_of_process, read

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bigrun.run import Run

__all__ = ["MemoryGuard", "MemoryGuardConfig"]


@attrs.frozen
class MemoryGuardConfig:
    """From where on it speaks."""

    device_free_fraction: float = option(
        0.03, check=between(0, 1), help="Told when less of the device's memory is free."
    )
    host_free_fraction: float = option(
        0.05, check=between(0, 1), help="Told when less of the machine's memory is free."
    )
    fragmentation_fraction: float = option(
        0.2, check=between(0, 1), help="Told when the device is full and more of torch's memory is in no tensor."
    )
    compare_prediction: bool = option(
        True, help="Say what `bigrun plan` predicts for this run beside what its first steps took."
    )


PROCESS = "the process grew by"
"""What is measured of a CPU."""


class MemoryGuard:
    """Looks at both memories whenever numbers are logged. Each thing is told once, when it begins and when it ends. Of
    several processes each looks at its own device, and the first of a machine at that machine's memory."""

    Config = MemoryGuardConfig
    observer = True

    def __init__(self, config: MemoryGuardConfig) -> None:
        self.limits = Limits(config.device_free_fraction, config.host_free_fraction, config.fragmentation_fraction)
        self.compares = config.compare_prediction
        self._before: Reading | None = None
        self._said: dict[str, str] = {}
        self._prediction: Prediction | None = None
        self._process_bytes = peak_of_process()
        self._first_step = 0

    @hookimpl
    def on_start(self, run: Run) -> None:
        self._look(run)
        self._first_step = run.step
        if self.compares and run.is_main and not run.finished:
            self._prediction = Prediction(run)

    @hookimpl
    def on_metrics(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        self._look(run)

    @hookimpl
    def after_step(self, run: Run, step: int) -> None:
        if not run.is_main and run.metrics.due(step):
            self._look(run)
        if self._prediction is None or step < self._first_step + 2:  # the optimizer's state is there from the second on
            return
        predicted = self._prediction.peak_bytes()
        if predicted is not None:
            self.teardown()
            message, facts = compared(predicted, measured(run, self._process_bytes))
            run.event("memory-predicted", message, **facts)

    @hookimpl
    def teardown(self) -> None:
        if self._prediction is not None:
            self._prediction.close()
            self._prediction = None

    def _look(self, run: Run) -> None:
        now = read(run.device, is_unified=run.facts.is_unified)
        found = {warning.kind: warning.message for warning in judge(now, self._before, self.limits)}
        if run.peers.place.local_rank > 0:
            found.pop(HOST, None)
        for kind in found.keys() - self._said.keys():
            run.event("memory-low", found[kind], "warning", memory=kind, **facts_of(now))
        for kind in self._said.keys() - found.keys():
            run.event("memory-recovered", f"{kind}: over", memory=kind, **facts_of(now))
        self._before, self._said = now, found


def facts_of(reading: Reading) -> dict[str, Any]:
    return attrs.asdict(reading)


def measured(run: Run, process_bytes: int) -> tuple[int, str]:
    """The most memory that was taken, and what it is."""
    if run.device.type != "cuda":
        return peak_of_process() - process_bytes, PROCESS
    import torch

    return torch.cuda.max_memory_allocated(run.device), "tensors took"


def compared(predicted: int, found: tuple[int, str]) -> tuple[str, dict[str, Any]]:
    """Message and facts of an event; `predicted` is 0 where it could not be."""
    taken, what = found
    facts = {"predicted_bytes": predicted or None, "measured_bytes": taken}
    if not predicted:
        return f"{what} {taken / 2**30:.2f} GiB; `bigrun plan` could not predict it", facts
    text = f"predicted {predicted / 2**30:.2f} GiB in tensors at most; {what} {taken / 2**30:.2f} GiB"
    if what == PROCESS:  # whose heap and libraries are no tensors
        return f"{text}, with its libraries and what its heap keeps", facts
    return f"{text} ({taken / predicted - 1:+.0%})", facts
