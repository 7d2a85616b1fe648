"""The section of the health report."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bigrun_telemetry.board import Board
from bigrun_telemetry.history import MINUTE_SECONDS, History
from bigrun_telemetry.sample import Sample
from bigrun_telemetry.summary import Distribution, Summary

__all__ = ["section"]

GIB = 2**30


def section(history: History, board: Board, summary: Summary) -> dict[str, Any]:
    """`title`; `status`: fail while an error is up, warn when a flag of that level was up in this process, else ok;
    `lines` of text; `table` with `columns` and `rows` of text."""
    return {
        "title": "Hardware",
        "status": status(board, summary),
        "lines": list(lines(history, board, summary)),
        "table": {"columns": ["", "now", "median", "95 %", "largest"], "rows": rows(summary)},
    }


def status(board: Board, summary: Summary) -> str:
    if any(finding.level == "error" for finding in board.up):
        return "fail"
    return "warn" if any(level != "info" for level in summary.worst.values()) else "ok"


def lines(history: History, board: Board, summary: Summary) -> Iterator[str]:
    """What is up, what was, and the figures that have no distribution."""
    yield from (f"{finding.flag}: {finding.message}" for finding in board.up)
    yield from (f"{flag} began {count} times" for flag, count in sorted(summary.flags.items()) if count)
    if summary.last is None:
        yield "no sample yet"
        return
    yield from gpu_lines(history, summary, summary.last)
    yield from memory_lines(summary.last)
    yield from run_lines(summary.last)


def gpu_lines(history: History, summary: Summary, now: Sample) -> Iterator[str]:
    limit, margin = now.slowdown_celsius, now.margin_celsius
    if limit is not None and margin is not None:
        yield f"heat: the GPU slows down at {limit:.0f} °C, {margin:.0f} °C are left"
    clock, best = history.clock_mhz(MINUTE_SECONDS), history.run_best_clock_mhz
    if clock is not None and best:
        yield f"clock: {clock / best:.0%} of the best minute's {best:.0f} MHz"
    if summary.samples_with_throttle:
        shares = [f"{name} {n / summary.samples_with_throttle:.1%}" for name, n in summary.throttle.most_common()]
        yield f"held down, of all samples: {', '.join(shares) or 'never'}"
    if summary.energy_kwh > 0:
        yield f"energy of the GPU: {summary.energy_kwh:.2f} kWh, mean {summary.watts.mean or 0:.0f} W"
    if now.gpu_power_limit_watts is not None:
        yield f"power limit: {now.gpu_power_limit_watts:.0f} W"


def memory_lines(now: Sample) -> Iterator[str]:
    free, total = now.gpu_memory_free_fraction, now.gpu_memory_total_bytes
    if free is not None and total is not None:
        other = now.gpu_memory_other_bytes
        beside = "" if other is None else f", {other / GIB:.1f} GiB are taken by others than torch's allocator"
        yield f"memory of the GPU: {free:.1%} of {total / GIB:.1f} GiB is free{beside}"
    taken = (now.torch_allocated_bytes, now.torch_peak_bytes, now.torch_reserved_bytes)
    if now.torch_reserved_bytes:
        tensors, most, reserved = (f"{(size or 0) / GIB:.1f}" for size in taken)
        lost = now.torch_fragmentation_fraction
        beside = "" if lost is None else f" ({lost:.0%} of it in no tensor even then)"
        yield (
            f"torch's allocator: {tensors} GiB in tensors between two steps, {most} at most, {reserved} reserved"
            f"{beside}; {now.torch_alloc_retries or 0} retries, {now.torch_ooms or 0} failures"
        )
    if now.host_memory_free_fraction is not None:
        own = "" if now.process_rss_bytes is None else f", the run has {now.process_rss_bytes / GIB:.1f} GiB"
        swap = f", {now.swap_used_bytes / GIB:.1f} GiB in swap" if now.swap_used_bytes else ""
        yield f"memory of the host: {now.host_memory_free_fraction:.1%} is available{own}{swap}"


def run_lines(now: Sample) -> Iterator[str]:
    if now.images_per_second_run_median is not None:
        recent = now.images_per_second_5min
        beside = f", {recent:.4g} in the last 5 minutes" if recent is not None else ""
        yield f"images/s: {now.images_per_second_run_median:.4g} (median minute){beside}"
    if now.speed_fraction is not None:
        yield f"speed of the last 5 minutes: {now.speed_fraction:.0%} of the usual"
    if now.step_p50_ms is not None and now.step_p95_ms is not None and now.step_max_ms is not None:
        times = f"{now.step_p50_ms:.4g} ms (median), {now.step_p95_ms:.4g} (95 %), {now.step_max_ms:.4g} (longest)"
        yield f"the last steps: {times}"
    shares = {
        "waiting for images": now.data_wait_fraction,
        "copies to the GPU (at least)": now.h2d_fraction,
        "plugins that look": now.observe_fraction,
    }
    known = [f"{name} {share:.1%}" for name, share in shares.items() if share is not None]
    if known:
        yield f"shares of the last 5 minutes: {', '.join(known)}"
    if now.mfu_fraction is not None:
        yield f"MFU: {now.mfu_fraction:.1%} in the last line of the log"
    if now.loss_is_finite is False:
        yield "the loss is not finite"
    if now.checkpoint_age_seconds is not None:
        yield f"last checkpoint: {now.checkpoint_age_seconds / 60:.0f} minutes ago"
    if now.disk_free_bytes is not None:
        yield f"disk of the run: {now.disk_free_bytes / GIB:.1f} GiB free"


def rows(summary: Summary) -> list[list[str]]:
    quantities = {
        "temperature, °C": summary.celsius,
        "power, W": summary.watts,
        "clock, MHz": summary.clock_mhz,
        "fan, %": summary.fan_percent,
    }
    return [[name, *cells(values)] for name, values in quantities.items() if values.last is not None]


def cells(values: Distribution) -> list[str]:
    figures = [values.last, *(values.quantile(fraction) for fraction in (0.5, 0.95, 1.0))]
    return [f"{figure:.0f}" for figure in figures if figure is not None]
