"""What a health report gets of telemetry, and that every figure that is wanted of hardware is in its rows or there."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hardware.series import series

from bigrun_telemetry.board import Board
from bigrun_telemetry.flags import judge
from bigrun_telemetry.health import section
from bigrun_telemetry.history import History
from bigrun_telemetry.sample import Sample
from bigrun_telemetry.summary import Summary

GIB = 2**30
# A card under load, and all that a run says of itself.
FULL: dict[str, Any] = {
    "gpu_power_watts": 400.0, "gpu_power_limit_watts": 450.0, "gpu_fan_fraction": 0.62,
    "gpu_memory_used_bytes": 21 * GIB, "gpu_memory_total_bytes": 24 * GIB,
    "gpu_throttle": lambda m: ("power-cap",) if m < 3 else (),
    "torch_allocated_bytes": 9 * GIB, "torch_reserved_bytes": 20 * GIB, "torch_peak_bytes": 19 * GIB,
    "torch_alloc_retries": 1, "torch_ooms": 0, "swap_used_bytes": GIB, "process_rss_bytes": 8 * GIB,
    "step_p95_ms": 520.0, "step_max_ms": 900.0, "observe_fraction": 0.01, "h2d_fraction": 0.02, "mfu_fraction": 0.31,
    "loss_is_finite": False, "checkpoint_age_seconds": 1200.0, "disk_free_bytes": 80 * GIB,
}  # fmt: skip


def report(minutes: float = 12, **fields: Any) -> dict[str, Any]:
    history, board, summary = History(), Board(), Summary()
    for sample in series(minutes, **(FULL | fields)):
        history.add(sample)
        summary.add(sample, board.update(judge(history, "nvidia"), sample.elapsed_seconds or 0.0))
    return section(history, board, summary)


def test_the_section_says_it_all() -> None:
    found = report()
    text = "\n".join(found["lines"])
    assert found["status"] == "ok"
    for line in (
        "heat: the GPU slows down at 90 °C, 18 °C are left",
        "clock: 100% of the best minute's 2500 MHz",
        "held down, of all samples: power-cap 25.0%",
        "energy of the GPU: 0.08 kWh, mean 400 W",
        "power limit: 450 W",
        "memory of the GPU: 12.5% of 24.0 GiB is free, 1.0 GiB are taken by others than torch's allocator",
        "torch's allocator: 9.0 GiB in tensors between two steps, 19.0 at most, 20.0 reserved (5% of it in no tensor "
        "even then); 1 retries, 0 failures",
        "memory of the host: 50.0% is available, the run has 8.0 GiB, 1.0 GiB in swap",
        "images/s: 100 (median minute), 100 in the last 5 minutes",
        "speed of the last 5 minutes: 100% of the usual",
        "the last steps: 500 ms (median), 520 (95 %), 900 (longest)",
        "shares of the last 5 minutes: waiting for images 1.0%, copies to the GPU (at least) 2.0%, plugins that look "
        "1.0%\n",
        "MFU: 31.0% in the last line of the log",
        "the loss is not finite",
        "last checkpoint: 20 minutes ago",
        "disk of the run: 80.0 GiB free",
    ):
        assert line in text
    assert [row[0] for row in found["table"]["rows"]] == ["temperature, °C", "power, W", "clock, MHz", "fan, %"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_margin_tells_where_a_card_slows_down() -> None:
    lines = report(gpu_slowdown_celsius=None, gpu_margin_celsius=12.0)["lines"]
    assert "heat: the GPU slows down at 84 °C, 12 °C are left" in lines
    assert not [line for line in report(gpu_slowdown_celsius=None)["lines"] if line.startswith("heat")]


@pytest.mark.parametrize(("speed", "status"), [(0.9, "warn"), (0.8, "fail")])
def test_what_is_up_decides(speed: float, status: str) -> None:
    found = report(speed_fraction=speed)
    assert found["status"] == status
    assert found["lines"][0].startswith("SLOW: ")


def test_energy_is_that_of_the_run_whatever_the_counter_does() -> None:
    """It begins somewhere, is away for a while, and begins again when the driver is loaded anew."""
    summary = Summary()
    counter = [7e6, 7.36e6, None, 8.08e6, 0.1e6, 0.46e6]
    for number, joules in enumerate(counter):
        summary.add(Sample(elapsed_seconds=10.0 * number, gpu_energy_joules=joules), [])
    assert summary.energy_kwh == pytest.approx((0.36 + 0.72 + 0.36) / 3.6)
    summary = Summary()
    for number in range(361):
        summary.add(Sample(elapsed_seconds=10.0 * number, gpu_power_watts=500.0), [])
    assert summary.energy_kwh == pytest.approx(0.5)
