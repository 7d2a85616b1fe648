"""What a run will need: plain values. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import attrs

from bigrun.planner.gpus import Gpu
from bigrun.planner.memory import Memory

__all__ = ["DeviceKind", "Fit", "Plan"]

DeviceKind = Literal["cuda", "cpu"]


@attrs.frozen
class Fit:
    """The largest micro-batch that fits, with one way of activation checkpointing."""

    activation_checkpointing: str
    micro_batch: int | None
    """None: not even the smallest does."""
    accumulate: int | None
    need_bytes: int
    """Of the device; with the smallest micro-batch if none fits."""


@attrs.frozen
class Plan:
    """What is predicted of a run. Memory is that of one process."""

    source: str
    device: DeviceKind
    """What is planned for: any GPU, or the CPU."""
    parameters: Mapping[str, int]
    effective_batch: int
    micro_batch: int
    accumulate: int
    activation_checkpointing: str
    precision: str
    max_steps: int | None
    checkpoint_every_steps: int
    memory: Memory
    """At the peak of the run's heaviest step: what the allocator will say (`torch.cuda.max_memory_allocated`)."""
    checkpoint_bytes: int
    flops_per_image: float | None
    """Without what is computed again; None where a plugin's objective computes something else."""
    gpu: Gpu | None = None
    device_memory_bytes: int | None = None
    tflops: float | None = None
    """That the device achieves, in the FLOPs of `flops_per_image`."""
    images: int | None = None
    """Of the data set; None where it is not known."""
    fits: tuple[Fit, ...] = ()
    """Empty where the memory of the device is not known."""
    notes: tuple[str, ...] = ()

    @property
    def need_bytes(self) -> int:
        """Memory that the device must have."""
        return self.memory.need_bytes(self.device)

    @property
    def fits_as_it_is(self) -> bool | None:
        """Whether the preset's own micro-batch fits; None where the memory of the device is not known."""
        return None if self.device_memory_bytes is None else self.need_bytes <= self.device_memory_bytes

    @property
    def images_per_second(self) -> float | None:
        """At the stated TFLOP/s."""
        return 1e12 * self.tflops / self.flops_per_image if self.tflops and self.flops_per_image else None

    @property
    def most_images_per_second(self) -> float | None:
        """What the device's peak would allow; no device reaches it."""
        return 1e12 * self.gpu.peak_tflops / self.flops_per_image if self.gpu and self.flops_per_image else None

    @property
    def images_seen(self) -> int | None:
        """In the whole run; None without an end."""
        return None if self.max_steps is None else self.max_steps * self.effective_batch

    @property
    def epochs(self) -> float | None:
        return self.images_seen / self.images if self.images and self.images_seen is not None else None

    @property
    def hours(self) -> float | None:
        """Of training alone, without the time for checkpoints and for waiting."""
        speed = self.images_per_second
        return self.images_seen / speed / 3600 if speed and self.images_seen is not None else None

    @property
    def checkpoints(self) -> int | None:
        """That the run saves; None without an end."""
        return None if self.max_steps is None else math.ceil(self.max_steps / self.checkpoint_every_steps)

    def largest(self, activation_checkpointing: str) -> Fit | None:
        """The answer for one way of activation checkpointing, where it was sought."""
        return next((f for f in self.fits if f.activation_checkpointing == activation_checkpointing), None)
