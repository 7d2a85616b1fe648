"""The host: memory, within a container's limit, and by psutil swap, disk and processor."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from bigrun.devices.host import memory_bytes
from bigrun_telemetry.sample import Sample

__all__ = ["Host", "busy_fraction"]

PROCESSORS = ("k10temp", "coretemp", "zenpower", "cpu_thermal")
"""Drivers of a processor's own sensor (hwmon), in order of preference."""


class Host:
    """Reads the machine, this process and those below it."""

    name = "host"

    def __init__(self, directory: Path) -> None:
        self._directory = str(directory)
        self._process = psutil.Process()
        self._times: Any = psutil.cpu_times()

    def read(self) -> Sample:
        (total, available), swap = memory_bytes(), psutil.swap_memory()
        # psutil.cpu_percent remembers the time before for each thread, and every reading has a thread of its own
        before, self._times = self._times, psutil.cpu_times()
        return Sample(
            cpu_temperature_celsius=temperature(),
            cpu_busy_fraction=busy_fraction(before, self._times),
            fan_rpm=fan(),
            host_memory_total_bytes=total,
            host_memory_available_bytes=available,
            swap_used_bytes=swap.used,
            swap_in_bytes=swap.sin,
            process_rss_bytes=self._process.memory_info().rss,
            workers_rss_bytes=sum(self._workers()),
            disk_free_bytes=psutil.disk_usage(self._directory).free,
        )

    def _workers(self) -> Iterator[int]:
        for child in self._process.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):  # it has just ended
                yield child.memory_info().rss

    def close(self) -> None:
        """It holds nothing."""


def busy_fraction(before: Any, now: Any) -> float | None:
    """Share of the time of all cores in which they did something, by two answers of psutil.cpu_times; None of no time.

    Time for guests counts as the user's already, and a core that waits for a disk is idle.
    """
    passed = {name: getattr(now, name) - getattr(before, name) for name in now._fields}
    total = sum(passed.values()) - passed.get("guest", 0.0) - passed.get("guest_nice", 0.0)
    idle = passed["idle"] + passed.get("iowait", 0.0)
    return min(max(1 - idle / total, 0.0), 1.0) if total > 0 else None


def temperature() -> float | None:
    """The hottest of the processor's sensors; {} in containers and virtual machines."""
    ask = getattr(psutil, "sensors_temperatures", None)  # on Linux and FreeBSD alone
    found = ask() if ask is not None else {}
    sensors: list[Any] = next((found[driver] for driver in PROCESSORS if found.get(driver)), [])
    return max((sensor.current for sensor in sensors), default=None)


def fan() -> float | None:
    """The fastest."""
    ask = getattr(psutil, "sensors_fans", None)
    found = ask() if ask is not None else {}
    return max((float(fan.current) for fans in found.values() for fan in fans), default=None)
