"""nvidia-ml-py as far as telemetry uses it, for machines without NVIDIA's driver: an RTX 4090 under load.

Names, arguments and units are those of nvidia-ml-py 13.615.71: mW, mJ, MHz, per cent, bytes. A value that is an
exception is raised.
"""

from __future__ import annotations

import types
from typing import Any

__all__ = ["UUID", "fake_pynvml"]

UUID = "0a1b2c3d-0000-1111-2222-333344445555"
GIB = 2**30


class NVMLError(Exception):
    """The class of all its errors; a class of its own for every code."""


class NVMLErrorNotSupported(NVMLError):
    pass


class NVMLErrorFunctionNotFound(NVMLError):
    pass


class NVMLErrorGpuIsLost(NVMLError):
    pass


class NVMLErrorLibraryNotFound(NVMLError):
    pass


class NVMLErrorNotFound(NVMLError):
    pass


def field_value(celsius: int, status: int = 0) -> types.SimpleNamespace:
    return types.SimpleNamespace(nvmlReturn=status, value=types.SimpleNamespace(uiVal=celsius))


def readings() -> dict[str, Any]:
    """Function -> what it answers, or {argument: answer}."""
    return {
        "nvmlDeviceGetTemperatureV": 71,
        "nvmlDeviceGetTemperatureThreshold": {1: 90},
        "nvmlDeviceGetMarginTemperature": NVMLErrorNotSupported("Not Supported"),
        "nvmlDeviceGetFieldValues": [field_value(0, status=3)],
        "nvmlDeviceGetPowerUsage": 412_345,
        "nvmlDeviceGetEnforcedPowerLimit": 450_000,
        "nvmlDeviceGetTotalEnergyConsumption": 7_200_000_000,
        "nvmlDeviceGetClockInfo": {1: 2520, 2: 10_501},
        "nvmlDeviceGetMaxClockInfo": {1: 3120},
        "nvmlDeviceGetFanSpeed": 62,
        "nvmlDeviceGetUtilizationRates": types.SimpleNamespace(gpu=98, memory=54),
        "nvmlDeviceGetMemoryInfo": types.SimpleNamespace(total=24 * GIB, free=2 * GIB, used=21 * GIB),
        "nvmlDeviceGetCurrentClocksEventReasons": 0x4,
    }


class FakeNvml(types.ModuleType):
    """Answers of one card; `calls` counts, `answers` may be changed."""

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.answers = readings()
        self.known = {f"GPU-{UUID}".encode(): "handle"}
        self.is_open = False
        self.init_error: NVMLError | None = None
        self.NVMLError = NVMLError
        self.NVMLError_NotSupported = NVMLErrorNotSupported
        self.NVMLError_FunctionNotFound = NVMLErrorFunctionNotFound
        self.NVML_TEMPERATURE_GPU = 0
        self.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN = 1
        self.NVML_CLOCK_SM, self.NVML_CLOCK_MEM = 1, 2
        self.NVML_FI_DEV_MEMORY_TEMP = 82

    def nvmlInit(self) -> None:  # noqa: N802
        if self.init_error is not None:
            raise self.init_error
        self.is_open = True

    def nvmlShutdown(self) -> None:  # noqa: N802
        assert self.is_open, "closed twice, or never opened"
        self.is_open = False

    def nvmlDeviceGetHandleByUUID(self, word: bytes) -> str:  # noqa: N802
        if word not in self.known:
            raise NVMLErrorNotFound("Not Found")
        return self.known[word]

    nvmlDeviceGetHandleByPciBusId = nvmlDeviceGetHandleByUUID  # noqa: N815

    def __getattr__(self, name: str) -> Any:
        if name not in self.__dict__.get("answers", {}):
            raise AttributeError(name)

        def function(handle: str, *arguments: Any) -> Any:
            assert handle == "handle"
            assert self.is_open
            answer = self.answers[name]
            answer = answer[arguments[0]] if isinstance(answer, dict) else answer
            if isinstance(answer, Exception):
                raise answer
            return answer

        return function


def fake_pynvml() -> FakeNvml:
    return FakeNvml()
