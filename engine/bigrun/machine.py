"""What a run runs on, as far as the last bits of its numbers depend on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bigrun.run import Run

__all__ = ["describe_machine", "machine_changes", "versions"]


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


def versions() -> dict[str, str]:
    import torch

    import bigrun

    return {"bigrun": bigrun.__version__, "torch": str(torch.__version__)}


def machine_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is another one now, as text; a fact that either side does not know is none."""
    return [f"{name}: {before[name]} -> {now[name]}" for name in now if name in before and before[name] != now[name]]
