"""The host, by psutil: memory, swap, disk, processor."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bigrun_telemetry.reader import Unavailable, number
from bigrun_telemetry.sample import Sample

__all__ = ["Host"]

PERCENT = 1e-2
PROCESSORS = ("k10temp", "coretemp", "zenpower", "cpu_thermal")
"""Drivers of a processor's own sensor (hwmon), in order of preference."""


class Host:
    """Reads the machine, this process and those below it."""

    name = "host"

    def __init__(self, directory: Path) -> None:
        """
        Raises:
            Unavailable: psutil is not installed.
        """
        try:
            self._psutil: Any = importlib.import_module("psutil")
        except ImportError:
            raise Unavailable("psutil is not installed: pip install psutil") from None
        self._directory = str(directory)
        self._process = self._psutil.Process()
        self._psutil.cpu_percent()  # the first answer is meaningless: from here on it is the mean since the last

    def read(self) -> Sample:
        memory, swap = self._psutil.virtual_memory(), self._psutil.swap_memory()
        return Sample(
            cpu_temperature_celsius=self._temperature(),
            cpu_busy_fraction=number(self._psutil.cpu_percent(), PERCENT),
            fan_rpm=self._fan(),
            host_memory_total_bytes=memory.total,
            host_memory_available_bytes=memory.available,
            swap_used_bytes=swap.used,
            swap_in_bytes=swap.sin,
            process_rss_bytes=self._process.memory_info().rss,
            workers_rss_bytes=sum(self._workers()),
            disk_free_bytes=self._psutil.disk_usage(self._directory).free,
        )

    def _workers(self) -> Iterator[int]:
        for child in self._process.children(recursive=True):
            with contextlib.suppress(self._psutil.NoSuchProcess, self._psutil.AccessDenied):  # it has just ended
                yield child.memory_info().rss

    def _temperature(self) -> float | None:
        """The hottest of the processor's sensors; {} in containers and virtual machines."""
        ask = getattr(self._psutil, "sensors_temperatures", None)
        found = ask() if ask is not None else {}
        sensors: list[Any] = next((found[driver] for driver in PROCESSORS if found.get(driver)), [])
        return max((sensor.current for sensor in sensors), default=None)

    def _fan(self) -> float | None:
        ask = getattr(self._psutil, "sensors_fans", None)
        found = ask() if ask is not None else {}
        return max((float(fan.current) for fans in found.values() for fan in fans), default=None)

    def close(self) -> None:
        """It holds nothing."""
