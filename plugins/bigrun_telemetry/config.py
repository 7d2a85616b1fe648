"""The options of telemetry."""

from __future__ import annotations

import attrs

from bigrun import option
from bigrun.options import above, at_least, within

__all__ = ["TelemetryConfig"]


@attrs.frozen
class TelemetryConfig:
    """How often the hardware is looked at, and how much of that is kept."""

    interval_seconds: float = option(
        10.0,
        check=within(0, 30),
        help="Time between two samples. 15 days with one every 10 s are 130,000 rows.",
    )
    hot_celsius: float | None = option(
        None,
        check=above(0),
        help="Temperature from which the GPU counts as hot where its driver tells no threshold; absent: 87 for NVIDIA, "
        "92 for AMD.",
    )
    keep_gib: float = option(
        0.5,
        check=at_least(0.1),
        help="Rows that are kept; beyond it the oldest files are removed.",
    )
