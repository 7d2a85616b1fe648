"""memory-guard: says before the memory is full what fills it, and what to change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from bigrun import hookimpl, option
from bigrun.options import between
from bigrun_memory.judge import Limits, judge
from bigrun_memory.reading import Reading, read

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


class MemoryGuard:
    """Looks at both memories whenever numbers are logged. Each thing is told once, when it begins and when it ends."""

    Config = MemoryGuardConfig
    observer = True

    def __init__(self, config: MemoryGuardConfig) -> None:
        self.limits = Limits(**attrs.asdict(config))
        self._before: Reading | None = None
        self._said: dict[str, str] = {}

    @hookimpl
    def on_start(self, run: Run) -> None:
        self._look(run)

    @hookimpl
    def on_metrics(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        self._look(run)

    def _look(self, run: Run) -> None:
        now = read(run.device)
        found = {warning.kind: warning.message for warning in judge(now, self._before, self.limits)}
        for kind in found.keys() - self._said.keys():
            run.event("memory-low", found[kind], "warning", memory=kind, **facts_of(now))
        for kind in self._said.keys() - found.keys():
            run.event("memory-recovered", f"{kind}: over", memory=kind, **facts_of(now))
        self._before, self._said = now, found


def facts_of(reading: Reading) -> dict[str, Any]:
    return attrs.asdict(reading)
