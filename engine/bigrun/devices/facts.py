"""Facts about a device and its machine: plain values, read once, on which every decision is a pure function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import attrs

from bigrun.devices.torch_build import TorchBuild

__all__ = ["Backend", "CpuFacts", "DeviceFacts", "HostFacts"]

Backend = Literal["cuda", "rocm", "cpu"]


@attrs.frozen
class CpuFacts:
    """The processor."""

    name: str | None
    architecture: str
    """As `uname -m` says it."""
    cores: int
    usable_cores: int
    """That this process can keep busy: on which it may run, and for which a container leaves it time."""
    features: tuple[str, ...] = ()
    """Those of FEATURES that it has."""

    @property
    def has_fast_bf16(self) -> bool:
        """Whether matrix products in bf16 are faster than in fp32; else they take up to 50 times as long."""
        return bool({"amx_bf16", "avx512_bf16", "bf16"}.intersection(self.features))


@attrs.frozen
class HostFacts:
    """The machine around the device."""

    system: str
    """Operating system and kernel."""
    kernel: str
    cpu: CpuFacts
    ram_total_bytes: int
    """Of the machine, or what a container's limit leaves of it."""
    ram_free_bytes: int
    """That can be had without swapping."""
    disk_free_bytes: int | None = None
    """Where the run directory is, or will be."""


@attrs.frozen
class DeviceFacts:
    """The device of one process."""

    backend: Backend
    name: str
    """As the driver calls it; never decided upon: one chip has several names, and several chips have one."""
    arch: str
    """`sm_89` (compute capability), `gfx1151` (ROCm), `x86_64`."""
    torch: TorchBuild
    host: HostFacts
    index: int | None = None
    total_bytes: int = 0
    """Of the device's memory, as torch sees it; on a CPU the machine's."""
    free_bytes: int = 0
    """When it was read."""
    is_unified: bool = False
    """Whether device and host share their memory."""
    multiprocessors: int | None = None
    driver: str | None = None
    built_for: tuple[str, ...] = ()
    """Architectures for which torch has kernels."""

    @property
    def is_gpu(self) -> bool:
        """Whether it is none of the machine's own processors."""
        return self.backend != "cpu"

    @property
    def capability(self) -> tuple[int, int] | None:
        """Of an NVIDIA GPU: (8, 9) for sm_89."""
        digits = self.arch.removeprefix("sm_")
        return (int(digits[:-1]), int(digits[-1])) if self.backend == "cuda" and digits.isdigit() else None

    def as_facts(self) -> dict[str, Any]:
        """JSON."""
        return attrs.asdict(self, value_serializer=lambda _, __, v: list(v) if isinstance(v, tuple) else v)

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> DeviceFacts:
        """From `as_facts`, or from a recording that has at least what has no default.

        Raises:
            TypeError: a fact is missing or unknown.
        """
        host = dict(facts["host"])
        cpu = dict(host.pop("cpu"))
        cpu["features"] = tuple(cpu.get("features", ()))
        rest: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in facts.items() if k not in ("host", "torch")
        }
        return cls(torch=TorchBuild(**facts["torch"]), host=HostFacts(cpu=CpuFacts(**cpu), **host), **rest)

    def line(self) -> str:
        """For the header."""
        gib = f"{self.total_bytes / 2**30:.1f} GiB"
        memory = f"{gib}, {self.free_bytes / 2**30:.1f} free" + (", shared with the host" if self.is_unified else "")
        driver = f", driver {self.driver}" if self.driver else ""
        return f"{self.name} ({self.arch}), {memory}{driver}; torch {self.torch}"
