"""What a run runs on: as far as the last bits of its numbers depend on it, and what else people want to know."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bigrun.run import Run

__all__ = ["describe_hardware", "describe_machine", "machine_changes", "versions"]


def describe_machine(run: Run) -> dict[str, Any]:
    """Device, number of processes and of threads; JSON."""
    import platform

    import torch

    gpu = run.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(run.device) if gpu else f"CPU ({platform.machine()})",
        "backend": ("ROCm" if torch.version.hip else "CUDA") if gpu else "CPU",
        "processes": run.strategy.world_size,
        "threads": torch.get_num_threads(),
    }


def describe_hardware(run: Run) -> dict[str, Any]:
    """`describe_machine`, and system, processor, cores, memory, every GPU; JSON."""
    import os
    import platform

    import torch

    properties = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return {
        **describe_machine(run),
        "system": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": [{"name": gpu.name, "memory_bytes": gpu.total_memory} for gpu in properties],
        "cuda": torch.version.cuda,
        "rocm": torch.version.hip,
    }


def processor() -> str | None:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def versions() -> dict[str, str]:
    import torch

    import bigrun

    return {"bigrun": bigrun.__version__, "torch": str(torch.__version__)}


def machine_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is another one now, as text; a fact that either side does not know is none."""
    return [f"{name}: {before[name]} -> {now[name]}" for name in now if name in before and before[name] != now[name]]
