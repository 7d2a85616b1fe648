"""Telemetry's rows as charts, over the same steps as everything else."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from bigrun_report.lines import lines_of
from bigrun_report.parts import Chart, Line, Part
from bigrun_report.series import series_of

__all__ = ["hardware_parts", "older_rows"]

GIB = 2**30
MOST_BYTES = 256 * 2**20
"""Of older rows; the newest files of them are looked through."""
PARSED_BYTES = 8 * 2**20
"""Of those, spread evenly: some 20,000 rows. What a chart of 300 px shows of more of them is the same."""
LONGEST_LINE = 2**20


@attrs.frozen
class Gauge:
    """A chart of columns: name -> label."""

    title: str
    unit: str
    columns: Mapping[str, str]
    factor: float = 1.0


MEMORY = (
    Gauge(
        "Memory of the GPU",
        "GiB",
        {
            "gpu_memory_used_bytes": "used",
            "torch_allocated_bytes": "in tensors, between two steps",
            "torch_peak_bytes": "in tensors, at most",
            "torch_reserved_bytes": "reserved by torch",
            "gpu_memory_other_bytes": "used by others",
            "gpu_memory_total_bytes": "there is",
        },
        1 / GIB,
    ),
    Gauge(
        "Memory of the host",
        "GiB",
        {
            "host_memory_available_bytes": "available",
            "process_rss_bytes": "of the run",
            "swap_used_bytes": "in swap",
        },
        1 / GIB,
    ),
    Gauge("Disk of the run", "GiB free", {"disk_free_bytes": "free"}, 1 / GIB),
)
HEAT = (
    Gauge(
        "Temperature",
        "°C",
        {
            "gpu_temperature_celsius": "GPU",
            "gpu_hotspot_celsius": "hottest point",
            "gpu_memory_celsius": "memory",
            "gpu_slowdown_celsius": "slows down at",
            "cpu_temperature_celsius": "processor",
        },
    ),
    Gauge("Power", "W", {"gpu_power_watts": "GPU", "gpu_power_limit_watts": "limit"}),
    Gauge("Clock", "MHz", {"gpu_clock_mhz": "GPU", "gpu_memory_clock_mhz": "memory"}),
    Gauge(
        "Busy",
        "share of the time",
        {"gpu_busy_fraction": "GPU", "gpu_memory_busy_fraction": "memory of the GPU", "cpu_busy_fraction": "processor"},
    ),
    Gauge("Fan", "share of the fastest", {"gpu_fan_fraction": "GPU"}),
    Gauge("Speed", "share of the usual", {"speed_fraction": "last 5 minutes"}),
)
PLACES = {"Memory": MEMORY, "Heat and power": HEAT}
COLUMNS = ("step", *(name for gauges in PLACES.values() for gauge in gauges for name in gauge.columns))


def hardware_parts(rows: Sequence[Mapping[str, Any]]) -> list[Part]:
    """The parts, with the charts that there is something for."""
    return [Part(title, charts=tuple(charts(rows, gauges))) for title, gauges in PLACES.items()]


def charts(rows: Sequence[Mapping[str, Any]], gauges: Sequence[Gauge]) -> Iterator[Chart]:
    for gauge in gauges:
        lines = [Line(label, series_of(rows, name, factor=gauge.factor)) for name, label in gauge.columns.items()]
        known = tuple(line for line in lines if len(line.series))
        if known:
            yield Chart(gauge.title, gauge.unit, known)


def older_rows(directory: Path) -> list[dict[str, Any]]:
    """Rows that telemetry has put aside, oldest first, with the columns that are drawn; a damaged line is passed over.
    Of many only every k-th is read, so that a run of months takes no more memory than one of days."""
    try:
        parts = sorted((directory / "telemetry").glob("rows-until-*.jsonl"))
        sizes = {part: part.lstat().st_size for part in parts}
    except OSError:
        return []
    chosen: list[Path] = []
    left = MOST_BYTES
    for part in reversed(parts):
        left -= sizes[part]
        if left < 0:
            break
        chosen.insert(0, part)
    every = max(math.ceil(sum(sizes[part] for part in chosen) / PARSED_BYTES), 1)
    return [row for part in chosen for row in rows_of(part, every)]


def rows_of(path: Path, every: int) -> Iterator[dict[str, Any]]:
    if os.path.realpath(path.parent) != os.path.join(os.path.realpath(path.parent.parent), path.parent.name):  # noqa: PTH118
        return
    with contextlib.suppress(OSError, ValueError):
        for line in lines_of(path, every, LONGEST_LINE):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict):
                yield {name: row[name] for name in COLUMNS if name in row}
