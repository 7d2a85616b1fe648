"""What was known of machine and run at one moment."""

from __future__ import annotations

import json
from typing import Any

import attrs

__all__ = ["Sample"]


@attrs.frozen(kw_only=True)
class Sample:
    """One row of `telemetry.jsonl`; None is not known, and not in the row. Every source fills in what it knows."""

    time_utc: str | None = None
    """ISO 8601."""
    elapsed_seconds: float | None = None
    """Since telemetry began in this process, on a clock that stands still while the machine sleeps."""

    # -- the run ----------------------------------------------------------------------------------------------
    step: int | None = None
    """The step being taken."""
    activity: str | None = None
    """`run.activity`."""
    standstill_seconds: float | None = None
    """How long neither of them has changed."""
    images_per_second_1min: float | None = None
    images_per_second_5min: float | None = None
    images_per_second_run_median: float | None = None
    """Of the rates of all minutes of this process, whatever its steps computed."""
    speed_fraction: float | None = None
    """Of the last steps, which took 5 minutes together: how long such steps usually take, over what they took."""
    kinds_of_steps: int | None = None
    """How many kinds of steps there have been in this process: other crops, other loss terms."""
    step_p50_ms: float | None = None
    """From the end of a step to that of the next, over the last 200; without the stall of a save in the foreground, and
    without the time in which plugins look at the run between two steps."""
    step_p95_ms: float | None = None
    step_max_ms: float | None = None
    data_wait_fraction: float | None = None
    """Of the time of the steps, mean over 5 minutes."""
    data_wait_usual_fraction: float | None = None
    """Its median over the minutes of the last 24 hours."""
    observe_fraction: float | None = None
    """Share of the last 5 minutes in which plugins looked at the run between two steps (`after_step`, `on_metrics`,
    `on_checkpoint`)."""
    h2d_bytes_per_second: float | None = None
    """Decoded images that went from host to GPU, over 5 minutes."""
    h2d_fraction: float | None = None
    """The same as a part of what the GPU's slot can carry: the least share of the time that the copies took."""
    model_tflops_per_second: float | None = None
    """As the run reports it, as are the next two."""
    mfu_fraction: float | None = None
    mfu_of_measured_fraction: float | None = None
    loss_is_finite: bool | None = None
    checkpoint_age_seconds: float | None = None

    # -- the GPU ----------------------------------------------------------------------------------------------
    gpu_temperature_celsius: float | None = None
    """Of the core: NVIDIA's GPU sensor, AMD's edge."""
    gpu_hotspot_celsius: float | None = None
    gpu_memory_celsius: float | None = None
    gpu_slowdown_celsius: float | None = None
    """Where the hardware begins to slow down."""
    gpu_margin_celsius: float | None = None
    """What is left until then, where the driver says so."""
    gpu_power_watts: float | None = None
    """Of the board; of the whole package on an APU."""
    gpu_power_limit_watts: float | None = None
    gpu_energy_joules: float | None = None
    """A counter that began somewhere."""
    gpu_clock_mhz: float | None = None
    gpu_clock_max_mhz: float | None = None
    gpu_memory_clock_mhz: float | None = None
    gpu_busy_fraction: float | None = None
    gpu_memory_busy_fraction: float | None = None
    gpu_memory_used_bytes: int | None = None
    gpu_memory_total_bytes: int | None = None
    gpu_fan_fraction: float | None = None
    gpu_fan_rpm: float | None = None
    gpu_throttle: tuple[str, ...] | None = None
    """Why the clock is held down: names of `reasons.py`; () for nothing."""

    # -- torch's allocator on it ------------------------------------------------------------------------------
    torch_allocated_bytes: int | None = None
    """Between two steps, when there are no activations."""
    torch_reserved_bytes: int | None = None
    torch_peak_bytes: int | None = None
    """The most in tensors since the run began."""
    torch_alloc_retries: int | None = None
    torch_ooms: int | None = None

    # -- the host ---------------------------------------------------------------------------------------------
    cpu_temperature_celsius: float | None = None
    cpu_busy_fraction: float | None = None
    fan_rpm: float | None = None
    """The fastest of the host."""
    host_memory_total_bytes: int | None = None
    """Of the machine, or what a container's limit leaves of it."""
    host_memory_available_bytes: int | None = None
    swap_used_bytes: int | None = None
    swap_in_bytes: int | None = None
    """A counter since the machine was started."""
    process_rss_bytes: int | None = None
    workers_rss_bytes: int | None = None
    """Of all processes below this one; what they share counts in each."""
    disk_free_bytes: int | None = None
    """Where the run directory is."""

    flags: tuple[str, ...] | None = None
    """Those that are up."""

    def filled(self, other: Sample) -> Sample:
        """This sample, with what only the other one knows."""
        return attrs.evolve(self, **{name: v for name, v in other.known().items() if getattr(self, name) is None})

    def known(self) -> dict[str, Any]:
        """Field -> value of everything that is not None."""
        return {name: value for name in NAMES if (value := getattr(self, name)) is not None}

    @property
    def slowdown_celsius(self) -> float | None:
        """Where the hardware begins to slow down, by its threshold or by what is left until there."""
        if self.gpu_slowdown_celsius is not None or None in (self.gpu_temperature_celsius, self.gpu_margin_celsius):
            return self.gpu_slowdown_celsius
        return (self.gpu_temperature_celsius or 0.0) + (self.gpu_margin_celsius or 0.0)

    @property
    def margin_celsius(self) -> float | None:
        """What is left until then."""
        limit, now = self.slowdown_celsius, self.gpu_temperature_celsius
        return None if limit is None or now is None else limit - now

    @property
    def torch_fragmentation_fraction(self) -> float | None:
        """Of what torch's allocator has reserved, what was in no tensor when tensors took most: between two steps, when
        it is read, most is in none, for activations are gone. 0 where memory has been given back since."""
        if not self.torch_reserved_bytes or self.torch_peak_bytes is None:
            return None
        return max(1 - self.torch_peak_bytes / self.torch_reserved_bytes, 0.0)

    @property
    def gpu_memory_other_bytes(self) -> int | None:
        """Used on the device, and not by torch's allocator."""
        if self.gpu_memory_used_bytes is None or self.torch_reserved_bytes is None:
            return None
        return self.gpu_memory_used_bytes - self.torch_reserved_bytes

    @property
    def gpu_memory_free_fraction(self) -> float | None:
        if self.gpu_memory_used_bytes is None or not self.gpu_memory_total_bytes:
            return None
        return 1 - self.gpu_memory_used_bytes / self.gpu_memory_total_bytes

    @property
    def host_memory_free_fraction(self) -> float | None:
        if self.host_memory_available_bytes is None or not self.host_memory_total_bytes:
            return None
        return self.host_memory_available_bytes / self.host_memory_total_bytes

    def line(self) -> str:
        """One line of JSON, with two numbers that follow from others: `gpu_memory_other_bytes` and
        `torch_fragmentation_fraction`."""
        derived = {name: getattr(self, name) for name in ("torch_fragmentation_fraction", "gpu_memory_other_bytes")}
        row = self.known() | {name: value for name, value in derived.items() if value is not None}
        rounded = {name: round(v, 3) if isinstance(v, float) else v for name, v in row.items()}
        return json.dumps(rounded, allow_nan=False, separators=(",", ":"))


NAMES = tuple(field.name for field in attrs.fields(Sample))
