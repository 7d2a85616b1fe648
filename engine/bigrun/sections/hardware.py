"""[hardware]: where, and in which precision."""

from __future__ import annotations

from typing import Literal

import attrs

from bigrun.options import between, option, within

__all__ = ["Hardware"]


@attrs.frozen
class Hardware:
    """Where and in which precision."""

    device: Literal["auto", "cuda", "rocm", "cpu"] = option(
        "auto", help="auto takes a GPU (CUDA or ROCm) when torch sees one; the others are taken or refused."
    )
    precision: Literal["bf16", "fp32"] = option(
        "bf16", help="Type of the forward and backward pass; weights stay fp32."
    )
    activation_checkpointing: Literal["none", "selective", "full"] = option(
        "none",
        help="What the backward pass computes again instead of keeping it: nothing; all but matrix products and "
        "attention; whole blocks. Less memory, same numbers, more time.",
    )
    on_oom: Literal["stop", "halve"] = option(
        "stop",
        help="When a step has not enough memory: stop; or go on in a new process (of several: in the next start) with "
        "half the micro-batch and twice as many, which leaves effective batch and objective as they are.",
    )
    pin_memory: bool = option(
        True,
        help="Images go to a GPU from page-locked memory, while the processor goes on; no effect on a CPU.",
    )
    peak_tflops: float | None = option(
        None,
        check=within(0, 1_000_000),
        effective=lambda hardware: hardware.precision == "bf16",
        otherwise="hardware.precision = 'fp32', of which no peak is known",
        help="Peak of one device in dense bf16 with sums in fp32, which MFU is a fraction of; absent: that of the data "
        "sheet, where bigrun knows the GPU.",
    )
    threads: int | None = option(None, check=between(1, 1000), help="CPU threads of torch; absent: torch decides.")
