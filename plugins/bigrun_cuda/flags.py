"""Flags of torch: read, set, read back, and given back. They can be set on every build, and act on a GPU only."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

from bigrun.devices import Setting
from bigrun_cuda.plan import BENCHMARK, PRECISION, SUMS

if TYPE_CHECKING:
    from bigrun.devices import Planned

__all__ = ["FLAGS", "Flag", "apply_flag", "kept"]


@attrs.frozen
class Flag:
    """One flag, its values in words."""

    read: Callable[[], str]
    write: Callable[[str], None]
    source: str
    """What is read."""


def read_precision() -> str:
    import torch

    return torch.get_float32_matmul_precision()


def write_precision(value: str) -> None:
    import torch

    torch.set_float32_matmul_precision(value)


def read_sums() -> str:
    import torch

    return "fast" if torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction else "precise"


def write_sums(value: str) -> None:
    import torch

    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = value == "fast"


def read_benchmark() -> str:
    import torch

    return "on" if torch.backends.cudnn.benchmark else "off"


def write_benchmark(value: str) -> None:
    import torch

    torch.backends.cudnn.benchmark = value == "on"


FLAGS = {
    PRECISION: Flag(read_precision, write_precision, "torch.get_float32_matmul_precision()"),
    SUMS: Flag(read_sums, write_sums, "torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction"),
    BENCHMARK: Flag(read_benchmark, write_benchmark, "torch.backends.cudnn.benchmark"),
}


def apply_flag(planned: Planned) -> tuple[Setting, Callable[[], None] | None]:
    """Set a flag, unless it is left alone; returns the row, and what undoes it."""
    flag = FLAGS[planned.name]
    before = flag.read()
    if planned.value is None:
        return kept(planned, before, flag.source), None
    flag.write(planned.value)
    after = flag.read()
    is_set = after == planned.value and planned.obstacle is None
    evidence = f"{flag.source} is {after}; {planned.obstacle or planned.reason}"
    row = Setting(planned.name, before, planned.value, is_set, evidence, planned.is_custom)
    return row, lambda: flag.write(before)


def kept(planned: Planned, value: str, source: str) -> Setting:
    """The row of what is left as it is."""
    return Setting(planned.name, value, value, True, f"{source}; {planned.reason}", planned.is_custom)
