"""What every benchmark prints: where and when it ran, and one table."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

__all__ = ["header", "median_interval", "positive", "table"]


def header(title: str) -> str:
    """Title, command, date and hardware."""
    command = shlex.join(["python", os.path.relpath(sys.argv[0]), *sys.argv[1:]])
    load = f"load average {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    return "\n".join(
        [
            title,
            f"command   {command}",
            f"date      {datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
            f"hardware  {cpu_name()}, {os.cpu_count()} CPUs; {load}",
            f"software  {platform.system()}, Python {platform.python_version()}, torch {version('torch')}, "
            f"pluggy {version('pluggy')}, bigrun {version('bigrun')}",
        ]
    )


def cpu_name() -> str:
    """As the kernel says it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def positive(text: str) -> int:
    """A command-line argument that is at least 1."""
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def median_interval(values: Sequence[float], resamples: int = 2000) -> tuple[float, float, float]:
    """Median, and the bounds of its 95 % bootstrap interval."""
    sample = np.asarray(values)
    draws = np.random.default_rng(0).choice(sample, (resamples, len(sample)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return float(np.median(sample)), float(low), float(high)


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns under their titles: the first is text, the others are numbers."""
    lines = [titles, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(titles))]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]).rstrip()
        for line in [titles, rule, *rows]
    )
