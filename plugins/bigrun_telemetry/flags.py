"""What a series of samples says is wrong: six flags, each with its number and its cause."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from bigrun.events import Level
from bigrun.sections.run import RunSection
from bigrun_telemetry.history import FIVE_MINUTES_SECONDS, MINUTE_SECONDS, History
from bigrun_telemetry.reasons import HEAT, POWER
from bigrun_telemetry.sample import Sample

__all__ = ["HUNG", "Finding", "judge"]

HUNG = "HUNG"

THROTTLED_SHARE = 0.01
NEAR_CELSIUS = 3.0
HOT_CELSIUS = {"nvidia": 87.0, "amd": 92.0}
"""Where the driver tells no threshold. A Strix Halo was seen at 87 to 91 at its edge sensor, and to restart from heat
(https://github.com/ROCm/legacy-rocm-build/issues/6035)."""
CAPPED_SHARE = 0.5
CAPPED_CLOCK = 0.85
DROPPED_CLOCK = 0.9
SLOW, VERY_SLOW = 0.95, 0.85
FELL_TOO = 0.95
WAIT_ROSE = 0.1
FREE = 0.03
GROWTH_PER_HOUR = 0.01
HUNG_STEPS, HUNG_SECONDS = 10, 300.0
USUAL = RunSection()
MOVING = ("data", "step", "observe")
"""What a run does within a step."""


@attrs.frozen
class Finding:
    """A flag that is up."""

    flag: str
    level: Level
    message: str
    facts: Mapping[str, Any] = attrs.field(factory=dict)


def judge(
    history: History, vendor: str | None = None, hot_celsius: float | None = None, limits: RunSection = USUAL
) -> list[Finding]:
    """The flags that are up after the newest sample.

    Args:
        vendor: of the GPU, `nvidia` or `amd`; None without one.
        hot_celsius: counts as hot where the driver tells no threshold, instead of `HOT_CELSIUS` of the vendor.
        limits: how long the first step, a save and the end of the run may take.
    """
    hot = hot_celsius if hot_celsius is not None else HOT_CELSIUS.get(vendor or "")
    found = [thermal(history, hot), power_cap(history), clock_drop(history), memory(history), hung(history.now, limits)]
    thermal_found = found[0] is not None
    return [finding for finding in [*found, slow(history, is_hot=thermal_found)] if finding is not None]


def thermal(history: History, hot_celsius: float | None) -> Finding | None:
    """Slowed down by heat in more than 1 % of the samples of five minutes, or within 3 °C of where that begins."""
    now = history.now
    known = [set(sample.gpu_throttle) for sample in history.recent() if sample.gpu_throttle is not None]
    slowed = [reasons for reasons in known if reasons & HEAT]
    share = len(slowed) / len(known) if known else 0.0
    limit, celsius = now.slowdown_celsius, now.gpu_temperature_celsius
    near = hot_celsius if limit is None else limit - NEAR_CELSIUS
    is_near = celsius is not None and near is not None and celsius >= near
    if share <= THROTTLED_SHARE and not is_near:
        return None
    reasons = sorted(set().union(*slowed) & HEAT) if slowed else []
    brake = any("power-brake" in r for r in slowed)
    parts = [f"the GPU is at {celsius:.0f} °C" if celsius is not None else "the GPU"]
    parts += [f"{near:.0f} °C counts as hot"] if is_near else []
    parts += [f"heat slowed it down in {share:.0%} of the last 5 minutes ({', '.join(reasons)})"] if slowed else []
    parts += ["the power supply asked it to slow down, too (power-brake)"] if brake else []
    facts = {"celsius": celsius, "hot_celsius": near, "throttled_fraction": round(share, 3), "reasons": reasons}
    return Finding("THERMAL", "warning", "; ".join(parts), facts)


def power_cap(history: History) -> Finding | None:
    """The power limit holds the clock in most samples of a minute: normal under load, unless the clock is below 85 %
    of the best minute's."""
    known = [sample.gpu_throttle for sample in history.recent(MINUTE_SECONDS) if sample.gpu_throttle is not None]
    if not known or sum(POWER in reasons for reasons in known) < CAPPED_SHARE * len(known):
        return None
    clock, best, watts = history.clock_mhz(MINUTE_SECONDS), history.best_clock_mhz, history.now.gpu_power_limit_watts
    limit = f" of {watts:.0f} W" if watts is not None else ""
    facts = {"clock_mhz": clock, "best_clock_mhz": best, "power_limit_watts": watts}
    if clock is not None and best is not None and clock < CAPPED_CLOCK * best:
        message = f"the power limit{limit} holds the clock at {clock:.0f} MHz, {clock / best:.0%} of the best minute's"
        return Finding("POWER-CAP", "warning", message, facts)
    return Finding("POWER-CAP", "info", f"the power limit{limit} holds the clock: normal under load", facts)


def clock_drop(history: History) -> Finding | None:
    """The median clock of five busy minutes is below 90 % of that of the first steady ones with such steps."""
    clock, steady = history.clock_mhz(FIVE_MINUTES_SECONDS), history.steady_clock_mhz
    if clock is None or steady is None or clock >= DROPPED_CLOCK * steady:
        return None
    message = f"the clock was {clock:.0f} MHz in the last 5 minutes, {clock / steady:.0%} of the first steady ones"
    return Finding("CLOCK-DROP", "warning", message, {"clock_mhz": clock, "steady_clock_mhz": steady})


def slow(history: History, *, is_hot: bool) -> Finding | None:
    """The last five minutes of steps went at less than 95 % of the usual speed of such steps: a warning; less than
    85 %: an alarm."""
    speed, rate = history.now.speed_fraction, history.now.images_per_second_5min
    if speed is None or speed >= SLOW:
        return None
    cause = cause_of_slowness(history, is_hot=is_hot)
    images = "" if rate is None else f", {rate:.4g} images/s"
    message = f"steps of the last 5 minutes went at {speed:.0%} of their usual speed{images}; {CAUSES[cause]}"
    facts = {"speed_fraction": round(speed, 4), "images_per_second": rate, "cause": cause}
    return Finding("SLOW", "error" if speed < VERY_SLOW else "warning", message, facts)


CAUSES = {
    "thermal": "the GPU's clock fell, too",
    "input": "steps wait longer for images",
    "memory": "memory is short: torch's allocator had to give memory back and ask again, or the host swaps",
    "unknown": "neither clock, input nor memory tells why",
}


def cause_of_slowness(history: History, *, is_hot: bool) -> str:
    """A clock below 95 % of the steady one or THERMAL; a wait for images that rose by more than 10 points; retries of
    the allocator or swapping in."""
    now, clock, steady = history.now, history.clock_mhz(FIVE_MINUTES_SECONDS), history.steady_clock_mhz
    if is_hot or (clock is not None and steady is not None and clock < FELL_TOO * steady):
        return "thermal"
    if (now.data_wait_fraction or 0.0) - (now.data_wait_usual_fraction or 0.0) > WAIT_ROSE:
        return "input"
    return "memory" if history.rise("torch_alloc_retries") > 0 or history.rise("swap_in_bytes") > 0 else "unknown"


def memory(history: History) -> Finding | None:
    """Less than 3 % of the device's or the host's memory is free, the allocator's retries rise, or the memory of the
    processes grows by more than 1 % in an hour."""
    now, parts = history.now, []
    device, host, growth = now.gpu_memory_free_fraction, now.host_memory_free_fraction, history.memory_growth_per_hour
    retries = history.rise("torch_alloc_retries")
    if device is not None and device < FREE:
        parts.append(f"{device:.1%} of the GPU's memory is free")
    if host is not None and host < FREE:
        parts.append(f"{host:.1%} of the host's memory is available")
    if retries > 0:
        parts.append(f"torch's allocator had to give memory back and ask again, {retries:.0f} times in 5 minutes")
    if growth is not None and growth > GROWTH_PER_HOUR:
        parts.append(f"the memory of the processes grows by {growth:.1%} in an hour")
    facts = {"gpu_free_fraction": device, "host_free_fraction": host, "retries": int(retries), "growth": growth}
    return Finding("MEMORY", "warning", "; ".join(parts), facts) if parts else None


def hung(now: Sample, limits: RunSection) -> Finding | None:
    """No step for ten times the median one, and at least 300 s; before one has ended nobody knows how long it takes."""
    first, p50 = limits.first_step_limit_seconds, now.step_p50_ms
    step = first if p50 is None else max(HUNG_STEPS * p50 / 1e3, HUNG_SECONDS)
    limit_of = dict.fromkeys(MOVING, step) | {"checkpoint": limits.save_limit_seconds, "end": first}
    limit, still = limit_of.get(now.activity or ""), now.standstill_seconds
    if limit is None or still is None or still < limit:
        return None
    message = f"step {now.step} has stood still for {still:.0f} s in {now.activity!r} (limit {limit:.0f} s)"
    facts = {"standing_step": now.step, "activity": now.activity, "seconds": round(still), "limit_seconds": limit}
    return Finding(HUNG, "error", message, facts)
