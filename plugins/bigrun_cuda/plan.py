"""What is to be set on a device: pure functions over its facts, the options and the environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bigrun.devices import Planned
from bigrun_cuda.kernels import expected_kernel, kernel_order

if TYPE_CHECKING:
    from bigrun.devices import DeviceFacts, TorchBuild
    from bigrun_cuda.config import CudaConfig

__all__ = [
    "ALLOCATOR",
    "ALLOCATOR_NAMES",
    "ATTENTION",
    "BENCHMARK",
    "EXPANDABLE",
    "PRECISION",
    "SUMS",
    "plan_allocator",
    "plan_attention",
    "plan_benchmark",
    "plan_precision",
    "plan_sums",
]

ALLOCATOR = "PYTORCH_CUDA_ALLOC_CONF"
"""The name that every torch reads; 2.9 passes over the newer PYTORCH_ALLOC_CONF (pytorch/pytorch issue 183387)."""
ALLOCATOR_NAMES = (ALLOCATOR, "PYTORCH_ALLOC_CONF")
EXPANDABLE = "expandable_segments:True"
PRECISION = "float32 matmul precision"
SUMS = "sums of bf16 products"
ATTENTION = "kernels of attention"
BENCHMARK = "cuDNN benchmark"
DEFAULTS = {PRECISION: "highest", SUMS: "fast", BENCHMARK: "off"}
"""torch's own."""
TF32_OVERRIDE, CUBLAS_OVERRIDE = "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"
TENSOR_CORES_FOR_TF32 = (8, 0)


def option_of(name: str, value: object) -> str:
    """As a user has written it."""
    shown = str(value).lower() if isinstance(value, bool) else repr(value)
    return f"plugins.cuda-tuning.{name} = {shown}"


def plan_allocator(build: TorchBuild, environment: Mapping[str, str], config: CudaConfig) -> Planned | None:
    """The environment variable, before torch is imported; None where this torch has no allocator for CUDA.

    What the user has set there is never added to: with max_split_size_mb, for example, expandable segments are refused
    (pytorch/pytorch issue 123548).
    """
    if build.backend != "cuda":
        return None
    wish = config.expandable_segments
    for name in ALLOCATOR_NAMES:
        if name in environment:
            also = "" if wish is None else f", which wins over {option_of('expandable_segments', wish)}"
            return Planned(name, None, f"{environment[name]} in the environment{also}", is_custom=True)
    if wish is False:
        return Planned(ALLOCATOR, None, option_of("expandable_segments", wish), is_custom=True)
    reason = "crops of several sizes leave gaps in segments of a fixed size"
    return Planned(ALLOCATOR, EXPANDABLE, reason, is_custom=wish is True)


def plan_precision(
    facts: DeviceFacts, config: CudaConfig, environment: Mapping[str, str], now: str, precision: str
) -> Planned:
    """TF32. It is `set_float32_matmul_precision`: the newer `fp32_precision` alone leaves torch in a state in which
    reading the older flag raises, and its own compiler reads it (pytorch/pytorch issues 166387, 194680).

    Args:
        now: what torch says.
        precision: `hardware.precision`.
    """
    wish, override = config.tf32, environment.get(TF32_OVERRIDE)
    has_tf32 = (facts.capability or (0, 0)) >= TENSOR_CORES_FOR_TF32
    if wish is None:
        for name in (TF32_OVERRIDE, CUBLAS_OVERRIDE):
            if name in environment:
                return Planned(PRECISION, None, f"{name}={environment[name]} in the environment", is_custom=True)
        if now != DEFAULTS[PRECISION]:
            return Planned(PRECISION, None, "was set before this plugin", is_custom=True)
        if precision == "fp32":
            return Planned(PRECISION, None, "hardware.precision = 'fp32' asks for fp32; tf32 = true is faster")
        if not has_tf32:
            return Planned(PRECISION, None, f"{facts.arch} has no TF32")
        return Planned(PRECISION, "high", "TF32 for what autocast leaves in fp32")
    obstacle = None
    if wish and not has_tf32:
        obstacle = f"{facts.arch} has no TF32"
    elif override is not None and wish is (override == "0"):
        obstacle = f"{TF32_OVERRIDE}={override} in the environment wins"
    return Planned(PRECISION, "high" if wish else "highest", option_of("tf32", wish), is_custom=True, obstacle=obstacle)


def plan_sums(config: CudaConfig, now: str) -> Planned:
    """Partial sums in bf16: the default of torch is kept."""
    if config.bf16_sums is not None:
        return Planned(SUMS, config.bf16_sums, option_of("bf16_sums", config.bf16_sums), is_custom=True)
    if now != DEFAULTS[SUMS]:
        return Planned(SUMS, None, "was set before this plugin", is_custom=True)
    return Planned(SUMS, None, "torch's own; bf16_sums = 'precise' adds in fp32")


def plan_benchmark(config: CudaConfig, now: str) -> Planned:
    """cuDNN measures nothing."""
    wish = config.cudnn_benchmark
    if wish is not None:
        return Planned(BENCHMARK, "on" if wish else "off", option_of("cudnn_benchmark", wish), is_custom=True)
    if now != DEFAULTS[BENCHMARK]:
        return Planned(BENCHMARK, None, "was set before this plugin", is_custom=True)
    return Planned(BENCHMARK, None, "torch's own: bigrun's network has no convolution to compute")


def plan_attention(
    facts: DeviceFacts,
    config: CudaConfig,
    environment: Mapping[str, str],
    cudnn: int | None,
    head_size: int,
    precision: str,
) -> tuple[Planned, str | None]:
    """Which kernels may be taken, and the one that is expected; None where none of them can."""
    capability = facts.capability or (0, 0)
    order = config.attention or kernel_order(capability, cudnn, environment)
    expected = expected_kernel(order, capability, cudnn, head_size, precision)
    if config.attention is not None:
        reason = option_of("attention", list(config.attention))
        return Planned(ATTENTION, ", ".join(config.attention), reason, is_custom=True), expected
    return Planned(ATTENTION, None, "torch's own order"), expected
