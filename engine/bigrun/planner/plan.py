"""What a run will need: plain values. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs

from bigrun.choices import Choice
from bigrun.planner.communication import Collective
from bigrun.planner.gpus import Gpu
from bigrun.planner.host_memory import HostMemory
from bigrun.planner.measured import Speed
from bigrun.planner.memory import Memory
from bigrun.planner.regrouping import Regrouping
from bigrun.planner.room import Room
from bigrun.planner.savings import Saving
from bigrun.planner.sharing import ALONE, Sharing

if TYPE_CHECKING:
    from bigrun.devices.facts import Backend

__all__ = ["Fit", "Plan"]


@attrs.frozen
class Fit:
    """The largest micro-batch that fits, with one way of activation checkpointing."""

    activation_checkpointing: str
    micro_batch: int | None
    """None: not even the smallest does."""
    accumulate: int | None
    need_bytes: int
    """As `Plan.taken_bytes`; with the smallest micro-batch if none fits."""
    regrouping: Regrouping | None = None
    """What this micro-batch makes of KoLeo's groups."""


@attrs.frozen
class Plan:
    """What is predicted of a run. Memory is that of one process."""

    source: str
    device: Backend
    """What is planned for: a GPU of either maker, or the CPU."""
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
    host: HostMemory
    checkpoint_bytes: int
    flops_per_image: float | None
    """Without what is computed again; None where a plugin's objective computes something else."""
    is_unified: bool = False
    """Whether device and host share their memory, as on a CPU."""
    segments_grow: bool = False
    """Of torch's allocator, which then wastes less."""
    choices: tuple[Choice, ...] = ()
    """Values that depend on the device and that nobody has set, by the plugins' answers or by rule."""
    savings: tuple[Saving, ...] = ()
    gpu: Gpu | None = None
    device_memory_bytes: int | None = None
    tflops: float | None = None
    """That the device achieves, in the FLOPs of `flops_per_image`; as it was stated."""
    speed: Speed | None = None
    """What was measured, and where."""
    images: int | None = None
    """Of the data set; None where it is not known."""
    fits: tuple[Fit, ...] = ()
    """Empty where the memory of the device is not known."""
    notes: tuple[str, ...] = ()
    sharing: Sharing = ALONE
    """Among processes, of which the memory is the first one's."""
    traffic: tuple[Collective, ...] = ()
    """What each of them tells the others in a step."""

    @property
    def need_bytes(self) -> int:
        """Memory that the device must have."""
        return self.memory.need_bytes(self.device, grows=self.segments_grow)

    @property
    def taken_bytes(self) -> int:
        """Of the device's memory: that, and on a CPU what the host needs, too."""
        return self.need_bytes + (self.host.bytes if self.device == "cpu" else 0)

    @property
    def fits_as_it_is(self) -> bool | None:
        """Whether the preset's own micro-batch fits; None where the memory of the device is not known."""
        if self.device_memory_bytes is None:
            return None
        room = Room(self.device, self.device_memory_bytes, self.host.ram_bytes, self.is_unified)
        return room.excess_bytes(self.need_bytes, self.host.bytes) <= 0

    @property
    def images_per_second(self) -> float | None:
        """Of one process, at the stated TFLOP/s, else as measured."""
        if self.flops_per_image is None:
            return None
        if self.tflops is not None:
            return 1e12 * self.tflops / self.flops_per_image
        return None if self.speed is None else self.speed.images_per_second(self.flops_per_image)

    @property
    def most_tflops(self) -> float | None:
        """That no training reaches: of large matrix products as measured, else the peak of the data sheet."""
        if self.speed is not None and self.speed.product_tflops is not None:
            return self.speed.product_tflops
        return self.gpu.peak_tflops if self.gpu is not None else None

    @property
    def most_images_per_second(self) -> float | None:
        """At `most_tflops`."""
        most, flops = self.most_tflops, self.flops_per_image
        return 1e12 * most / flops if most and flops else None

    @property
    def images_seen(self) -> int | None:
        """In the whole run; None without an end."""
        return None if self.max_steps is None else self.max_steps * self.effective_batch

    @property
    def epochs(self) -> float | None:
        return self.images_seen / self.images if self.images and self.images_seen is not None else None

    @property
    def hours(self) -> float | None:
        """Of training alone, without the time for checkpoints and for waiting; of one process."""
        speed = self.images_per_second if self.sharing.processes == 1 else None
        return self.images_seen / speed / 3600 if speed and self.images_seen is not None else None

    @property
    def checkpoints(self) -> int | None:
        """That the run saves; None without an end."""
        return None if self.max_steps is None else math.ceil(self.max_steps / self.checkpoint_every_steps)

    def largest(self, activation_checkpointing: str) -> Fit | None:
        """The answer for one way of activation checkpointing, where it was sought."""
        return next((f for f in self.fits if f.activation_checkpointing == activation_checkpointing), None)
