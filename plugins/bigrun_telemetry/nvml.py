"""NVIDIA's management library, by nvidia-ml-py (https://docs.nvidia.com/deploy/nvml-api/)."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from bigrun_telemetry.gpu import Gpu
from bigrun_telemetry.reader import Missing, Unavailable, number
from bigrun_telemetry.reasons import NVIDIA_BITS, named
from bigrun_telemetry.sample import Sample

__all__ = ["Nvml"]

MILLI = 1e-3
PERCENT = 1e-2
# The card, the driver or the library's version does not have such a reading; everything else is a failure.
ABSENT = (
    "NVMLError_NotSupported",
    "NVMLError_FunctionNotFound",
    "NVMLError_NoPermission",
    "NVMLError_InvalidArgument",
)


class Nvml:
    """Reads one NVIDIA GPU, found by its UUID."""

    name = "nvml"

    def __init__(self, gpu: Gpu) -> None:
        """
        Raises:
            Missing: nvidia-ml-py is not installed.
            Unavailable: the driver does not answer, or does not know this GPU.
        """
        try:
            self._nvml: Any = importlib.import_module("pynvml")
        except ImportError:
            raise Missing("nvidia-ml-py is not installed: pip install 'bigrun[nvidia]'") from None
        try:
            self._nvml.nvmlInit()
        except self._nvml.NVMLError as error:
            raise Unavailable(f"the driver does not answer ({error})") from None
        self._absent = tuple(getattr(self._nvml, name) for name in ABSENT if hasattr(self._nvml, name))
        try:
            self._handle = self._find(gpu)
        except Unavailable:
            self.close()
            raise

    def _find(self, gpu: Gpu) -> Any:
        """By UUID, of a whole GPU or of a part of one (MIG), or else by its place on the bus."""
        ways = [(self._nvml.nvmlDeviceGetHandleByUUID, f"{kind}-{gpu.uuid}") for kind in ("GPU", "MIG") if gpu.uuid]
        if gpu.pci_address is not None:
            ways.append((self._nvml.nvmlDeviceGetHandleByPciBusId, gpu.pci_address))
        for find, word in ways:
            try:
                return find(word.encode())
            except self._nvml.NVMLError:
                continue
        asked = ", ".join(word for _, word in ways) or "nothing: torch tells neither UUID nor address"
        raise Unavailable(f"the driver does not know {gpu.name} (asked for {asked})")

    def read(self) -> Sample:
        """
        Raises:
            NVMLError: the GPU is lost, or the driver failed.
        """
        memory, busy = self._ask("nvmlDeviceGetMemoryInfo"), self._ask("nvmlDeviceGetUtilizationRates")
        return Sample(
            gpu_temperature_celsius=self._temperature(),
            gpu_slowdown_celsius=self._number(
                "nvmlDeviceGetTemperatureThreshold", self._nvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN
            ),
            gpu_margin_celsius=self._number("nvmlDeviceGetMarginTemperature"),
            gpu_memory_celsius=self._memory_temperature(),
            gpu_power_watts=self._number("nvmlDeviceGetPowerUsage", factor=MILLI),
            gpu_power_limit_watts=self._number("nvmlDeviceGetEnforcedPowerLimit", factor=MILLI),
            gpu_energy_joules=self._number("nvmlDeviceGetTotalEnergyConsumption", factor=MILLI),
            gpu_clock_mhz=self._number("nvmlDeviceGetClockInfo", self._nvml.NVML_CLOCK_SM),
            gpu_clock_max_mhz=self._number("nvmlDeviceGetMaxClockInfo", self._nvml.NVML_CLOCK_SM),
            gpu_memory_clock_mhz=self._number("nvmlDeviceGetClockInfo", self._nvml.NVML_CLOCK_MEM),
            gpu_fan_fraction=self._number("nvmlDeviceGetFanSpeed", factor=PERCENT),
            gpu_busy_fraction=number(getattr(busy, "gpu", None), PERCENT),
            gpu_memory_busy_fraction=number(getattr(busy, "memory", None), PERCENT),
            gpu_memory_used_bytes=None if memory is None else int(memory.total) - int(memory.free),
            gpu_memory_total_bytes=None if memory is None else int(memory.total),
            gpu_throttle=self._throttle(),
        )

    def _temperature(self) -> float | None:
        sensor = self._nvml.NVML_TEMPERATURE_GPU
        celsius = self._number("nvmlDeviceGetTemperatureV", sensor)  # the older function goes with CUDA 14
        return self._number("nvmlDeviceGetTemperature", sensor) if celsius is None else celsius

    def _memory_temperature(self) -> float | None:
        """Of cards whose memory has a sensor."""
        field = getattr(self._nvml, "NVML_FI_DEV_MEMORY_TEMP", None)
        values = None if field is None else self._ask("nvmlDeviceGetFieldValues", [field])
        if not values or values[0].nvmlReturn:
            return None
        return number(values[0].value.uiVal) or None

    def _throttle(self) -> tuple[str, ...] | None:
        bits = self._ask("nvmlDeviceGetCurrentClocksEventReasons")  # called ThrottleReasons before driver 535
        bits = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons") if bits is None else bits
        return None if bits is None else named(int(bits), NVIDIA_BITS)

    def _number(self, function: str, *arguments: Any, factor: float = 1.0) -> float | None:
        return number(self._ask(function, *arguments), factor)

    def _ask(self, function: str, *arguments: Any) -> Any:
        """The answer of a function about this GPU; None where the card has no such reading."""
        ask: Callable[..., Any] | None = getattr(self._nvml, function, None)
        if ask is None:
            return None
        try:
            return ask(self._handle, *arguments)
        except self._absent:
            return None

    def close(self) -> None:
        self._nvml.nvmlShutdown()
