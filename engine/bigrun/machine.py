"""What a run runs on: as far as the last bits of its numbers depend on it, and what else people want to know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bigrun.run import Run

__all__ = ["describe_hardware", "describe_machine", "machine_changes", "versions"]


def describe_machine(run: Run) -> dict[str, Any]:
    """Device, its architecture, memory and driver, number of processes and of threads; JSON."""
    import torch

    facts = run.facts
    return {
        "device": facts.name if facts.is_gpu else f"CPU ({facts.arch})",
        "backend": {"cuda": "CUDA", "rocm": "ROCm", "cpu": "CPU"}[facts.backend],
        "arch": facts.arch,
        "memory_gib": round(facts.total_bytes / 2**30),
        "driver": facts.driver,
        "processes": run.strategy.world_size,
        "threads": torch.get_num_threads(),
    }


def describe_hardware(run: Run) -> dict[str, Any]:
    """`describe_machine`, every fact of device and host, every GPU; JSON."""
    import torch

    properties = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    gpus = [{"name": gpu.name, "memory_bytes": gpu.total_memory} for gpu in properties]
    return {**describe_machine(run), "facts": run.facts.as_facts(), "gpus": gpus}


def versions() -> dict[str, str]:
    import torch

    import bigrun

    return {"bigrun": bigrun.__version__, "torch": str(torch.__version__)}


def machine_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is another one now, as text; a fact that either side does not know is none."""
    known = [name for name in now if before.get(name) is not None and now[name] is not None]
    return [f"{name}: {before[name]} -> {now[name]}" for name in known if before[name] != now[name]]
