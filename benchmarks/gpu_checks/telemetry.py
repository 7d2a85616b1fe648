"""Rows of telemetry under load, and whether taking one waits for the GPU."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from gpu_checks.check import Figures, Skip

if TYPE_CHECKING:
    from gpu_checks.subject import Subject

__all__ = ["measure", "problems"]

LOAD_SECONDS, TINY_STEPS = 20.0, 150
"""The first step included, which makes plans and finds memory."""
INTERVAL_SECONDS, TINY_INTERVAL_SECONDS = 0.5, 0.05
ON_GPU = (
    *("gpu_temperature_celsius", "gpu_power_watts", "gpu_clock_mhz", "gpu_busy_fraction", "gpu_memory_used_bytes"),
    *("gpu_memory_total_bytes", "torch_allocated_bytes", "torch_reserved_bytes"),
)
EVERYWHERE = ("time_utc", "step", "host_memory_available_bytes", "process_rss_bytes", "disk_free_bytes")
BUSY = 0.5
CELSIUS, MEGAHERTZ = (10.0, 110.0), (100.0, 5000.0)


def measure(subject: Subject) -> Figures:
    from gpu_checks.command import real_run
    from gpu_checks.recipe import document

    if subject.facts.backend == "cuda":
        require_nvml()
    interval = TINY_INTERVAL_SECONDS if subject.tiny else INTERVAL_SECONDS
    length = f"run.max_steps={TINY_STEPS}" if subject.tiny else f"run.max_hours={LOAD_SECONDS / 3600}"
    plugins: dict[str, Any] = {"metrics-log": {}, "telemetry": {"interval_seconds": interval}}
    workers = 0 if subject.tiny else min(8, subject.facts.host.cpu.usable_cores)
    sets = [length, f"data.workers={workers}", "run.log_every_steps=20"]
    run = real_run(subject, "run", document(subject, "vit_small", 64, sets, plugins))
    rows = [row for row in run.lines("telemetry.jsonl") if row.get("activity") == "step" and row.get("step", 0) > 2]
    return {
        "is_gpu": subject.is_gpu,
        "exit_code": run.exit_code,
        "said": run.said if run.exit_code not in ENDS else "",
        "rows": len(rows),
        "sources_left_out": [event["message"] for event in run.events("telemetry-source")],
        "missing": [name for name in names(subject) if not any(name in row for row in rows)],
        "ranges": ranges(rows),
        "flags": sorted({flag for row in rows for flag in row["flags"]}),
        "no_wait": no_wait(subject),
    }


ENDS = (0, 3)
"""Finished, or stopped because its time was over."""


def require_nvml() -> None:
    from importlib.util import find_spec

    if find_spec("pynvml") is None:
        raise Skip("nvidia-ml-py is not installed: pip install 'bigrun[nvidia]'")


def names(subject: Subject) -> tuple[str, ...]:
    return (*EVERYWHERE, *ON_GPU) if subject.is_gpu else EVERYWHERE


def ranges(rows: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Least and most of every number of the GPU."""
    found: dict[str, list[float]] = {}
    for name in sorted({n for row in rows for n in row if n.startswith(("gpu_", "torch_"))}):
        values = [row[name] for row in rows if isinstance(row.get(name), int | float)]
        if values:
            found[name] = [min(values), max(values)]
    return found


def no_wait(subject: Subject) -> dict[str, Any] | None:
    """Take a sample while the GPU is busy: does it still work when the sample is there?"""
    if not subject.is_gpu:
        return None
    from bigrun_telemetry.allocator import read_allocator
    from bigrun_telemetry.gpu import Gpu
    from bigrun_telemetry.sources import Sources, openers
    from gpu_checks.transfers import busy

    sources = Sources(openers(Gpu.of(subject.device), subject.directory), lambda event: None)
    sources.read()
    still_busy = busy(subject.device)
    began = time.perf_counter()
    sources.read().filled(read_allocator(subject.device))
    seconds = time.perf_counter() - began
    goes_on = still_busy()
    sources.close()
    return {"sources": list(sources.names), "milliseconds": 1000 * seconds, "gpu_still_busy": goes_on}


def problems(figures: Mapping[str, Any]) -> Iterator[str]:
    if figures["exit_code"] not in ENDS:
        yield f"the run ended with exit code {figures['exit_code']}: {figures['said']}"
    if figures["rows"] < 3:
        yield f"{figures['rows']} rows of steps"
    yield from figures["sources_left_out"]
    if figures["missing"]:
        yield f"no row has {', '.join(figures['missing'])}"
    if not figures["is_gpu"]:
        return
    if not figures["no_wait"]["gpu_still_busy"]:
        yield f"a sample has waited for the GPU, {figures['no_wait']['milliseconds']:.0f} ms"
    found = figures["ranges"]
    for name, (least, most) in (("gpu_temperature_celsius", CELSIUS), ("gpu_clock_mhz", MEGAHERTZ)):
        if name in found and not least <= found[name][0] <= found[name][1] <= most:
            yield f"{name} is {found[name]}"
    if not found.get("gpu_busy_fraction", [0, 1])[1] >= BUSY:
        yield f"the GPU is busy for {found['gpu_busy_fraction'][1]:.0%} of the time at most"
    limit = found.get("gpu_power_limit_watts", [0, float("inf")])[1]
    if not 0 < found.get("gpu_power_watts", [1, 1])[1] <= 1.2 * limit:
        yield f"power {found['gpu_power_watts']} W, limit {limit} W"
    if "torch_reserved_bytes" in found and "gpu_memory_used_bytes" in found:
        used, reserved = found["gpu_memory_used_bytes"][1], found["torch_reserved_bytes"][1]
        if used < reserved:
            yield f"{used} bytes of the device are used, and torch has {reserved}"
