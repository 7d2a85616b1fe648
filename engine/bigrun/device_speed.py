"""The speed of a device: what its maker or its user says, and what it does in large matrix products."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import attrs

from bigrun.planner.gpus import gpu_of
from bigrun.process import release_memory

if TYPE_CHECKING:
    import torch

    from bigrun.devices import DeviceFacts
    from bigrun.run import Run
    from bigrun.sections import Hardware

__all__ = ["Peak", "known_peak", "measured_tflops", "untuned"]

LIMIT_SECONDS = 0.1
"""For each of three sizes of matrices: a few products on any GPU."""


@attrs.frozen
class Peak:
    """Of dense products in bf16 with sums in fp32."""

    tflops: float
    whose: str
    """The GPU, or the option that states it."""


def known_peak(hardware: Hardware, facts: DeviceFacts) -> Peak | None:
    """What the user states, or the data sheet of a listed GPU; no other device stands in for one that is not listed.

    None for fp32 as well: its products run at another peak, with TF32 at a third, and that of bf16 is no measure.
    """
    if hardware.precision != "bf16":
        return None
    if hardware.peak_tflops is not None:
        return Peak(hardware.peak_tflops, "hardware.peak_tflops")
    gpu = gpu_of(facts)
    return None if gpu is None else Peak(gpu.peak_tflops, gpu.name)


def measured_tflops(run: Run) -> float | None:
    """The best of a few products of bf16, as the run's libraries do them; None on a CPU, in fp32, on any process but
    the main one, and where it could not be measured, which is an event.

    Random generators, settings and the device's memory are afterwards as they were.
    """
    if not run.facts.is_gpu or not run.is_main or run.config.hardware.precision != "bf16":
        return None
    import torch

    from bigrun.doctor.speed import tflops

    try:
        with untuned(run.device):
            return tflops(run.device, torch.bfloat16, LIMIT_SECONDS)
    except RuntimeError as error:  # out of memory, too
        reason = str(error).partition("\n")[0]
        run.event("speed-unmeasured", f"the speed of {run.facts.name} could not be measured: {reason}", "warning")
        return None
    finally:
        release_memory()
        if run.device.type == "cuda":  # or the run's peak would be that of these products
            torch.cuda.reset_peak_memory_stats(run.device)


@contextlib.contextmanager
def untuned(device: torch.device) -> Iterator[None]:
    """Without TunableOp's search: it would try hundreds of kernels for each of these shapes, and keep the results."""
    from torch.cuda import tunable

    if device.type != "cuda" or not tunable.tuning_is_enabled():
        yield
        return
    tunable.tuning_enable(False)
    try:
        yield
    finally:
        tunable.tuning_enable(True)
