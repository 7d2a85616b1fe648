"""Products of square matrices: operations per second, beside what the maker says."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from bigrun.doctor.row import Row, judged
from bigrun.doctor.subject import Subject
from bigrun.doctor.timing import LIMIT_SECONDS, best_seconds
from bigrun.planner.gpus import gpu_of

__all__ = ["expected_speed", "speed_rows", "tflops"]

SIZES = {"cuda": (2048, 4096, 8192), "cpu": (512, 1024, 2048)}
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
FRACTION = 0.5
"""Of the peak; large products reach 0.5 to 0.8 of it."""
BUSY = (
    "look at temperature, power limit and clocks (`nvidia-smi -q -d PERFORMANCE`, `rocm-smi`), and at who else computes"
)


def speed_rows(subject: Subject) -> Iterator[Row]:
    device, facts = subject.device, subject.facts
    found = {name: tflops(device, dtype) for name, dtype in DTYPES.items()}
    gpu = gpu_of(facts)
    peaks = {"bf16": gpu.peak_tflops if gpu else None, "fp32": None}
    for name, value in found.items():
        yield expected_speed(f"{name} speed", value, peaks[name], "TFLOP/s", BUSY)
    if not facts.is_gpu:
        ratio = found["bf16"] / found["fp32"]
        remedy = "set hardware.precision = 'fp32': it is faster here"
        yield judged("bf16 against fp32", ratio >= 1, f"{ratio:.2g} times as fast", "at least as fast", remedy)


def tflops(device: torch.device, dtype: torch.dtype, limit_seconds: float = LIMIT_SECONDS) -> float:
    """The best of several sizes; 2 n^3 operations for n x n matrices. Each takes little more than the limit."""
    best = 0.0
    for size in SIZES[device.type]:
        generator = torch.Generator(device).manual_seed(0)
        a, b = (torch.randn(size, size, device=device, generator=generator).to(dtype) for _ in range(2))
        seconds = best_seconds(lambda a=a, b=b: a @ b, device, limit_seconds)  # type: ignore[misc]
        best = max(best, 2 * size**3 / seconds / 1e12)
        if 8 * seconds > limit_seconds:  # the next size
            break
    return best


def expected_speed(name: str, value: float, peak: float | None, unit: str, remedy: str) -> Row:
    """`info` where no peak is known, as of a CPU; a warning below half of it."""
    found, facts = f"{value:.3g} {unit}", {"measured": value, "peak": peak, "unit": unit}
    if peak is None:
        return Row(name, "info", found, "n/a", facts=facts)
    expected = f"half of {peak:g} {unit} or more"
    return judged(
        name, value >= FRACTION * peak, f"{found}, {value / peak:.0%} of the peak", expected, remedy, facts=facts
    )
