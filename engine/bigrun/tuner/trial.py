"""A trial: the settings that are tried, and how it ended. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import attrs

__all__ = ["PHASES", "Outcome", "Settings", "Status"]

Status = Literal["ok", "out-of-memory", "crash", "timeout", "error"]

PHASES = ("data", "transfer", "forward", "backward", "optimizer", "other")
"""Of a step: waiting for decoded images; their copy to the device and the crops; teacher, student and losses; the
backward pass; clipping, agreement, optimizer and EMA; everything else, plugins that look on above all."""
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
        return ", ".join(part for part in self.parts() if part)

    def parts(self) -> list[str]:
        """Words for each setting, always as many; none where there is nothing to say."""
        return [
            f"micro-batch {self.micro_batch}",
            f"checkpointing {self.activation_checkpointing}",
            f"workers {self.workers}",
            f"pin {str(self.pin_memory).lower()}",
            "" if self.compile is None else f"compile {str(self.compile).lower()}",
            self.attention or "",
        ]

    def unlike(self, other: Settings) -> str:
        """What is another than in the other ones."""
        pairs = zip(self.parts(), other.parts(), strict=True)
        return ", ".join(mine or "the preset's own attention" for mine, theirs in pairs if mine != theirs)


@attrs.frozen
class Outcome:
    """How a trial ended, and what it measured if it ended well. Milliseconds are those of one image."""

    status: Status
    message: str = ""
    images_per_second: float | None = None
    """Of the run: what is done once in a step is counted over its whole effective batch, not over the trial's."""
    milliseconds: Mapping[str, float] = attrs.field(factory=dict)
    """By phase; they add up to an image's share of the time."""
    decoded_per_second: float | None = None
    """Images that the workers decode while nothing else goes on; None where nobody decodes beside the training."""
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
    def device_images_per_second(self) -> float | None:
        """As fast as it would be if no step had to wait for images."""
        busy = sum(self.milliseconds.values()) - self.milliseconds.get("data", 0.0)
        return None if self.images_per_second is None else 1000 / max(busy, 1e-9)

    @property
    def data_share(self) -> float:
        """Of the time in which a step waits for images."""
        total = sum(self.milliseconds.values())
        return self.milliseconds.get("data", 0.0) / total if total else 0.0

    def as_facts(self) -> dict[str, Any]:
        return attrs.asdict(self)

    @classmethod
    def measured(
        cls,
        totals: Mapping[str, float],
        steps: int,
        trial_batch: int,
        effective_batch: int,
        decoded_per_second: float | None = None,
        **facts: Any,
    ) -> Outcome:
        """From the milliseconds of all steps by phase.

        A trial is short, and begins with what was decoded beforehand: where images are taken faster than they are
        decoded, the run will have to wait for them, although the trial had not.

        Args:
            trial_batch: images in each of these steps.
            effective_batch: images in each step of the run.
        """
        per_image = {
            phase: totals.get(phase, 0.0) / steps / (effective_batch if phase in ONCE else trial_batch)
            for phase in PHASES
        }
        if decoded_per_second is not None:
            busy = sum(per_image.values()) - per_image["data"]
            per_image["data"] = max(per_image["data"], 1000 / decoded_per_second - busy)
        speed = 1000 / max(sum(per_image.values()), 1e-9)
        return cls(
            "ok",
            images_per_second=speed,
            milliseconds=per_image,
            decoded_per_second=decoded_per_second,
            steps=steps,
            trial_batch=trial_batch,
            **facts,
        )
