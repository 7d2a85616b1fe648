"""amdsmi as far as telemetry uses it, for machines without its native library: a Radeon card under load.

Names and units are those of amdsmi 7.0.2: W, MHz, per cent, °C; "N/A" where a card has no such reading.
"""

from __future__ import annotations

import types
from typing import Any

__all__ = ["ADDRESS", "FakeAmdSmi"]

ADDRESS = "0000:03:00.0"


class AmdSmiLibraryException(Exception):
    """Raised for everything that a card does not have."""


class FakeAmdSmi(types.ModuleType):
    """Answers of one card; `answers` may be changed."""

    def __init__(self, addresses: tuple[str, ...] = (ADDRESS,)) -> None:
        super().__init__("amdsmi")
        self.addresses = list(addresses)
        self.is_open = False
        self.init_error: Exception | None = None
        self.AmdSmiTemperatureType = types.SimpleNamespace(EDGE=0, JUNCTION=1, HOTSPOT=1, VRAM=2)
        self.AmdSmiTemperatureMetric = types.SimpleNamespace(CURRENT=0)
        self.AmdSmiClkType = types.SimpleNamespace(GFX=0, MEM=4)
        self.temperatures: dict[int, Any] = {0: 61, 1: 83, 2: 78}
        self.clocks: dict[int, Any] = {0: {"clk": 2304, "max_clk": 2575}, 4: {"clk": 1249, "max_clk": 1249}}
        self.power: Any = {"average_socket_power": "N/A", "current_socket_power": 301, "power_limit": 303_000_000}
        self.activity: Any = {"gfx_activity": 99, "umc_activity": 40, "mm_activity": "N/A"}
        self.metrics: Any = {"indep_throttle_status": "N/A"}

    def deny(self) -> None:
        """Say "N/A" or nothing, as ROCm 7.2 did on Strix Halo."""
        self.temperatures, self.clocks = {}, {}
        self.power = dict.fromkeys(self.power, "N/A")
        self.activity = dict.fromkeys(self.activity, "N/A")

    def amdsmi_init(self) -> None:
        if self.init_error is not None:
            raise self.init_error
        self.is_open = True

    def amdsmi_shut_down(self) -> None:
        assert self.is_open, "closed twice, or never opened"
        self.is_open = False

    def amdsmi_get_processor_handles(self) -> list[str]:
        return [f"handle {address}" for address in self.addresses]

    def amdsmi_get_gpu_device_bdf(self, handle: str) -> str:
        return handle.removeprefix("handle ").upper()

    def amdsmi_get_temp_metric(self, handle: str, kind: int, metric: int) -> Any:
        return self._known(self.temperatures, kind)

    def amdsmi_get_clock_info(self, handle: str, kind: int) -> Any:
        return self._known(self.clocks, kind)

    def amdsmi_get_power_info(self, handle: str) -> Any:
        return self.power

    def amdsmi_get_gpu_activity(self, handle: str) -> Any:
        return self.activity

    def amdsmi_get_gpu_metrics_info(self, handle: str) -> Any:
        return self.metrics

    @staticmethod
    def _known(table: dict[int, Any], key: int) -> Any:
        if key not in table:
            raise AmdSmiLibraryException("AMDSMI_STATUS_NOT_SUPPORTED")
        return table[key]
