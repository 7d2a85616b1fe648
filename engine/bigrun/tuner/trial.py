"""A trial: the settings that are tried, and how it ended. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import attrs

__all__ = ["PHASES", "Outcome", "Settings", "Status"]

Status = Literal["ok", "out-of-memory", "crash", "timeout", "error"]

PHASES = ("data", "transfer", "forward", "backward", "optimizer", "other")
"""Of a step: waiting for decoded images; their copy to the device and the crops; teacher and student; the backward
pass; clipping, agreement, optimizer and EMA; everything else, plugins that look on above all."""
ONCE = ("optimizer", "other")
"""What is done once in a step, however many micro-batches it has."""


@attrs.frozen
class Settings:
    """What one trial tries; what is learnt does not depend on it."""

    micro_batch: int
    activation_checkpointing: str
    workers: int
    pin_memory: bool
    compile: bool | None = None
    """None where no active plugin has such an option."""
    attention: str | None = None
    """The plugin that is switched on for it; None: as the preset has it."""

    def line(self) -> str:
        parts = [
            f"micro-batch {self.micro_batch}",
            f"checkpointing {self.activation_checkpointing}",
            f"workers {self.workers}",
            f"pin {str(self.pin_memory).lower()}",
        ]
        parts += [] if self.compile is None else [f"compile {str(self.compile).lower()}"]
        return ", ".join(parts if self.attention is None else [*parts, self.attention])


@attrs.frozen
class Outcome:
    """How a trial ended, and what it measured if it ended well. Milliseconds are those of one image."""

    status: Status
    message: str = ""
    images_per_second: float | None = None
    """Of the run: what is done once in a step is counted over its whole effective batch, not over the trial's."""
    milliseconds: Mapping[str, float] = attrs.field(factory=dict)
    """By phase; they add up to an image's share of the time."""
    peak_memory_bytes: int | None = None
    """Of a GPU what its allocator has held at most; on a CPU what the process has."""
    warm_up_steps: int = 0
    steps: int = 0
    """That were measured."""
    trial_batch: int = 0
    """Images in each step of the trial."""
    seconds: float = 0.0
    """That the trial took, start and warm-up included."""

    @property
    def data_share(self) -> float:
        """Of the time in which a step waits for images."""
        total = sum(self.milliseconds.values())
        return self.milliseconds.get("data", 0.0) / total if total else 0.0

    def as_facts(self) -> dict[str, Any]:
        return attrs.asdict(self)

    @classmethod
    def measured(
        cls, totals: Mapping[str, float], steps: int, trial_batch: int, effective_batch: int, **facts: Any
    ) -> Outcome:
        """From the milliseconds of all steps by phase.

        Args:
            trial_batch: images in each of these steps.
            effective_batch: images in each step of the run.
        """
        per_image = {
            phase: totals.get(phase, 0.0) / steps / (effective_batch if phase in ONCE else trial_batch)
            for phase in PHASES
        }
        speed = 1000 / max(sum(per_image.values()), 1e-9)
        return cls("ok", "", speed, per_image, steps=steps, trial_batch=trial_batch, **facts)
