"""AMD's management library, by amdsmi (https://rocm.docs.amd.com/projects/amdsmi/)."""

from __future__ import annotations

import importlib
from typing import Any

from bigrun_telemetry.gpu import Gpu
from bigrun_telemetry.reader import Missing, Unavailable, number
from bigrun_telemetry.reasons import AMD_BITS, named
from bigrun_telemetry.sample import Sample

__all__ = ["AmdSmi"]

PERCENT = 1e-2


class AmdSmi:
    """Reads one AMD GPU, found by its PCI address. What the library does not know it says with "N/A", or by raising;
    on APUs that was everything (ROCm 7.2 on Strix Halo)."""

    name = "amdsmi"

    def __init__(self, gpu: Gpu) -> None:
        """
        Raises:
            Missing: amdsmi is not installed, or its native library is not.
            Unavailable: the driver does not answer, or does not know this GPU.
        """
        try:
            self._smi: Any = importlib.import_module("amdsmi")
        except ModuleNotFoundError:
            raise Missing("amdsmi is not installed: pip install 'bigrun[amd]'") from None
        except (Exception, SystemExit) as error:  # without its native library amdsmi 7.0 raises KeyError
            raise Missing(f"amdsmi cannot be imported ({type(error).__name__}: {error})") from None
        try:
            self._smi.amdsmi_init()
        except Exception as error:  # the class of its errors differs between versions
            raise Unavailable(f"the driver does not answer ({type(error).__name__}: {error})") from None
        try:
            self._handle = self._find(gpu)
        except Unavailable:
            self.close()
            raise

    def _find(self, gpu: Gpu) -> Any:
        try:
            handles = list(self._smi.amdsmi_get_processor_handles())
            addresses = [str(self._smi.amdsmi_get_gpu_device_bdf(handle)).lower() for handle in handles]
        except Exception as error:
            raise Unavailable(f"the driver tells of no GPU ({type(error).__name__}: {error})") from None
        if gpu.pci_address is None and len(handles) == 1:
            return handles[0]
        if gpu.pci_address in addresses:
            return handles[addresses.index(gpu.pci_address)]
        listed = ", ".join(addresses) or "none"
        raise Unavailable(f"the driver does not know {gpu.name} at {gpu.pci_address} (it knows: {listed})")

    def read(self) -> Sample:
        """
        Raises:
            RuntimeError: nothing at all can be read.
        """
        busy, power = self._ask("amdsmi_get_gpu_activity"), self._ask("amdsmi_get_power_info")
        clock, memory_clock = self._clock("GFX"), self._clock("MEM")
        found = Sample(
            gpu_temperature_celsius=self._temperature("EDGE"),
            gpu_hotspot_celsius=self._temperature("JUNCTION", "HOTSPOT"),
            gpu_memory_celsius=self._temperature("VRAM"),
            gpu_power_watts=first(power, "average_socket_power", "current_socket_power", "socket_power") or None,
            gpu_clock_mhz=first(clock, "clk", "cur_clk"),
            gpu_clock_max_mhz=first(clock, "max_clk"),
            gpu_memory_clock_mhz=first(memory_clock, "clk", "cur_clk"),
            gpu_busy_fraction=first(busy, "gfx_activity", factor=PERCENT),
            gpu_memory_busy_fraction=first(busy, "umc_activity", factor=PERCENT),
            gpu_throttle=self._throttle(),
        )
        if not found.known():
            raise RuntimeError('every reading is "N/A"')
        return found

    def _temperature(self, *sensors: str) -> float | None:
        for sensor in sensors:
            kind = getattr(self._smi.AmdSmiTemperatureType, sensor, None)
            celsius = number(self._ask("amdsmi_get_temp_metric", kind, self._smi.AmdSmiTemperatureMetric.CURRENT))
            if celsius:  # a sensor that is not there reads 0
                return celsius
        return None

    def _clock(self, domain: str) -> Any:
        return self._ask("amdsmi_get_clock_info", getattr(self._smi.AmdSmiClkType, domain, None))

    def _throttle(self) -> tuple[str, ...] | None:
        """Without a cause where the library only says whether (7.0)."""
        metrics = self._ask("amdsmi_get_gpu_metrics_info")
        status = metrics.get("indep_throttle_status") if isinstance(metrics, dict) else None
        if isinstance(status, bool):
            return ("unspecified",) if status else ()
        bits = number(status)
        return None if bits is None else named(int(bits), AMD_BITS)

    def _ask(self, function: str, *arguments: Any) -> Any:
        """The answer of a function about this GPU; None where it has none. What a card does not have is an exception of
        the same class as every other failure."""
        try:
            return getattr(self._smi, function)(self._handle, *arguments)
        except Exception:
            return None

    def close(self) -> None:
        self._smi.amdsmi_shut_down()


def first(answer: Any, *names: str, factor: float = 1.0) -> float | None:
    """The first of these keys that has a number: names differ between versions, and one that is not meant may be 0."""
    values = [number(answer.get(name), factor) for name in names] if isinstance(answer, dict) else []
    known = [value for value in values if value is not None]
    return next((value for value in known if value), known[0] if known else None)
