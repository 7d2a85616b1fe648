"""The section of the health report."""

from __future__ import annotations

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


def lines(history: History, board: Board, summary: Summary) -> list[str]:
    """What is up, what was, and the figures that have no distribution."""
    found = [f"{finding.flag}: {finding.message}" for finding in board.up]
    found += [f"{flag} began {count} times" for flag, count in sorted(summary.flags.items()) if count]
    if summary.last is None:
        return [*found, "no sample yet"]
    return [*found, *gpu_lines(history, summary, summary.last), *run_lines(summary.last)]


def gpu_lines(history: History, summary: Summary, now: Sample) -> list[str]:
    found = []
    clock, best = history.clock_mhz(MINUTE_SECONDS), history.best_clock_mhz
    if clock is not None and best:
        found.append(f"clock: {clock / best:.0%} of the best minute's {best:.0f} MHz")
    if summary.samples_with_throttle:
        shares = [f"{name} {n / summary.samples_with_throttle:.1%}" for name, n in summary.throttle.most_common()]
        found.append(f"held down, of all samples: {', '.join(shares) or 'never'}")
    if summary.energy_kwh > 0:
        found.append(f"energy of the GPU: {summary.energy_kwh:.2f} kWh, mean {summary.watts.mean or 0:.0f} W")
    free, total = now.gpu_memory_free_fraction, now.gpu_memory_total_bytes
    if free is not None and total is not None:
        found.append(f"memory of the GPU: {free:.1%} of {total / GIB:.1f} GiB is free")
    return found


def run_lines(now: Sample) -> list[str]:
    found = []
    if now.images_per_second_run_median is not None:
        recent = now.images_per_second_5min
        beside = f", {recent:.4g} in the last 5 minutes" if recent is not None else ""
        found.append(f"images/s: {now.images_per_second_run_median:.4g} (median minute){beside}")
    if now.step_p50_ms is not None and now.step_p95_ms is not None and now.step_max_ms is not None:
        times = f"{now.step_p50_ms:.4g} ms (median), {now.step_p95_ms:.4g} (95 %), {now.step_max_ms:.4g} (longest)"
        found.append(f"the last steps: {times}")
    if now.host_memory_free_fraction is not None:
        found.append(f"memory of the host: {now.host_memory_free_fraction:.1%} is available")
    if now.disk_free_bytes is not None:
        found.append(f"disk of the run: {now.disk_free_bytes / GIB:.1f} GiB free")
    return found


def rows(summary: Summary) -> list[list[str]]:
    quantities = {
        "temperature, °C": summary.celsius,
        "power, W": summary.watts,
        "clock, MHz": summary.clock_mhz,
    }
    return [[name, *cells(values)] for name, values in quantities.items() if values.last is not None]


def cells(values: Distribution) -> list[str]:
    figures = [values.last, *(values.quantile(fraction) for fraction in (0.5, 0.95, 1.0))]
    return [f"{figure:.0f}" for figure in figures if figure is not None]
