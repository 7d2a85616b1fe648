"""An AMD GPU by the files of its driver (https://docs.kernel.org/gpu/amdgpu/thermal.html).

Everything can be read without a library and without rights, on APUs too, of which amdsmi long knew nothing.
"""

from __future__ import annotations

import re
from pathlib import Path

from bigrun_telemetry.gpu import Gpu
from bigrun_telemetry.gpu_metrics import GpuMetrics
from bigrun_telemetry.reader import Unavailable
from bigrun_telemetry.sample import Sample

__all__ = ["Sysfs"]

DRM = Path("/sys/class/drm")
AMD = "0x1002"
MILLI, MICRO, PERCENT, HERTZ_TO_MHZ = 1e-3, 1e-6, 1e-2, 1e-6


class Sysfs:
    """Reads one AMD GPU, found by its PCI address."""

    name = "sysfs"

    def __init__(self, gpu: Gpu, drm: Path = DRM) -> None:
        """
        Raises:
            Unavailable: there is no such card, or one cannot tell which of several it is.
        """
        cards = {
            card.resolve().name: card for card in sorted(drm.glob("card*[0-9]/device")) if text(card / "vendor") == AMD
        }
        address = next(iter(cards)) if gpu.pci_address is None and len(cards) == 1 else gpu.pci_address
        if address not in cards:
            listed = ", ".join(cards) or "none"
            raise Unavailable(f"{drm} has no AMD card at {gpu.pci_address} for {gpu.name} (it has: {listed})")
        self._card = cards[address]
        self._is_integrated = gpu.is_integrated
        self._sensors = next(iter(sorted(self._card.glob("hwmon/hwmon*"))), self._card / "hwmon")
        self._temperatures = {
            text(label): label.name.removesuffix("_label") for label in self._sensors.glob("temp*_label")
        }
        self._metrics = GpuMetrics()

    def read(self) -> Sample:
        """
        Raises:
            FileNotFoundError: the card is gone.
        """
        if not self._card.is_dir():
            raise FileNotFoundError(f"{self._card} is gone")
        used, total = self._memory("used"), self._memory("total")
        edge = self._temperatures.get("edge", "temp1")
        clock = self._value("freq1_input", HERTZ_TO_MHZ)
        states = dpm_states(text(self._card / "pp_dpm_sclk"))
        average = self._value("power1_average", MICRO)
        return Sample(
            gpu_temperature_celsius=self._value(f"{edge}_input", MILLI),
            gpu_hotspot_celsius=self._labelled("junction"),
            gpu_memory_celsius=self._labelled("mem"),
            gpu_slowdown_celsius=self._value(f"{edge}_crit", MILLI),
            gpu_power_watts=self._value("power1_input", MICRO) if average is None else average,
            gpu_power_limit_watts=self._value("power1_cap", MICRO),
            gpu_clock_mhz=states.get("*") if clock is None else clock,
            gpu_clock_max_mhz=max(states.values(), default=None),
            gpu_memory_clock_mhz=self._value("freq2_input", HERTZ_TO_MHZ),
            gpu_fan_rpm=self._value("fan1_input"),
            gpu_fan_fraction=self._fan(),
            gpu_busy_fraction=value(self._card / "gpu_busy_percent", PERCENT),
            gpu_memory_busy_fraction=value(self._card / "mem_busy_percent", PERCENT),
            gpu_memory_used_bytes=used,
            gpu_memory_total_bytes=total,
            gpu_throttle=self._throttle(),
        )

    def _labelled(self, label: str) -> float | None:
        name = self._temperatures.get(label)
        return None if name is None else self._value(f"{name}_input", MILLI)

    def _fan(self) -> float | None:
        now, largest = self._value("pwm1"), self._value("pwm1_max")
        return None if now is None or not largest else now / largest

    def _memory(self, what: str) -> int | None:
        """Of an APU the part set aside for it and what it may borrow from the host together."""
        kinds = ("vram", "gtt") if self._is_integrated else ("vram",)
        parts = [value(self._card / f"mem_info_{kind}_{what}") for kind in kinds]
        found = [part for part in parts if part is not None]
        return int(sum(found)) if found else None

    def _throttle(self) -> tuple[str, ...] | None:
        try:
            return self._metrics.throttle((self._card / "gpu_metrics").read_bytes())
        except OSError:
            return None

    def _value(self, name: str, factor: float = 1.0) -> float | None:
        return value(self._sensors / name, factor)

    def close(self) -> None:
        """It holds nothing."""


def text(path: Path) -> str:
    """What a file says; "" where there is none or the driver has no value (EINVAL, ENODATA)."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def value(path: Path, factor: float = 1.0) -> float | None:
    """A file's number times `factor`."""
    try:
        return float(text(path)) * factor
    except ValueError:
        return None


def dpm_states(table: str) -> dict[str, float]:
    """MHz of a table such as `1: 2900Mhz *`, by number; the one in use by `*` as well."""
    states: dict[str, float] = {}
    for number, mhz, star in re.findall(r"^(\w+): (\d+)mhz *(\*?)", table, re.IGNORECASE | re.MULTILINE):
        states[number] = float(mhz)
        if star:
            states["*"] = float(mhz)
    return states
