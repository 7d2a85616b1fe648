"""What is set on an AMD GPU: pure functions of its facts, the environment and the options. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping

from bigrun.devices import DeviceFacts, Planned
from bigrun_rocm.config import RocmConfig
from bigrun_rocm.numerical_check import ENABLED, is_checking
from bigrun_rocm.versions import EXPERIMENTAL_ATTENTION, hipblaslt_support

__all__ = [
    "AOTRITON",
    "TUNED_ARCHS",
    "compares_kernels",
    "plan_aotriton",
    "plan_blas",
    "plan_tunableop",
]

AOTRITON = "TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL"
TUNING = "PYTORCH_TUNABLEOP_TUNING"
PREFER_HIPBLASLT = ("TORCH_BLAS_PREFER_HIPBLASLT", "TORCH_BLAS_PREFER_CUBLASLT")
"""Two names of one variable, read when torch is imported."""
ZERO_COUNTS_SINCE = (2, 13)
"""2.9 and 2.11 do not read `0`, 2.13 and 2.15 take it for rocBLAS."""
TUNED_ARCHS = ("gfx1150", "gfx1151")
"""On gfx1151 each library is far behind the other for some layouts: the products for gradients of weights ran at 17
TFLOPS by hipBLASLt and at 40 by rocBLAS (4096^3, ROCm/TheRock issue 5314), most others the other way round. Of other
architectures no such measurement is known, and a user of gfx1100 saw TunableOp slow things down."""


def plan_blas(facts: DeviceFacts, environment: Mapping[str, str], config: RocmConfig) -> Planned:
    """`cublaslt` (hipBLASLt) or `cublas` (rocBLAS), as torch calls them."""
    name = "BLAS library"
    for variable in PREFER_HIPBLASLT:
        if variable in environment:
            value = environment[variable]
            unread = value == "0" and facts.torch.release < ZERO_COUNTS_SINCE
            hint = "; torch before 2.13 may not read 0: hipblaslt = false is read by all" if unread else ""
            return Planned(name, None, f"{variable} is {value!r} in the environment{hint}", is_custom=True)
    if config.hipblaslt is not None:
        return Planned(name, "cublaslt" if config.hipblaslt else "cublas", "by option", is_custom=True)
    support = hipblaslt_support(facts.arch, facts.torch.hip)
    if support == "unsupported":
        return Planned(name, None, f"torch takes no hipBLASLt of ROCm {facts.torch.hip} on {facts.arch}")
    return Planned(name, "cublaslt", f"hipBLASLt has kernels for {facts.arch}")


def plan_tunableop(facts: DeviceFacts, environment: Mapping[str, str], config: RocmConfig) -> list[Planned]:
    """TunableOp and its tuning, each on or off. Who enables it in the environment has all of it."""
    names, variables = ("TunableOp", "TunableOp tuning"), (ENABLED, TUNING)
    told = [f"{v} is {environment[v]!r} in the environment" if v in environment else None for v in variables]
    if told[0] is not None:
        return [Planned(name, None, told[0], is_custom=True) for name in names]
    is_custom = config.tunableop is not None
    wish = config.tunableop if is_custom else facts.arch in TUNED_ARCHS
    if not wish:
        reason = "by option" if is_custom else f"not measured on {facts.arch}"
        return [Planned(names[0], "off", reason, is_custom), Planned(names[1], None, "TunableOp is off")]
    reason = "by option" if is_custom else "hipBLASLt and rocBLAS are each slow for some shapes"
    tuning = "in the first steps of a process, until no new shape comes"
    return [
        Planned(names[0], "on", reason, is_custom),
        Planned(names[1], "on", tuning) if told[1] is None else Planned(names[1], None, told[1], is_custom=True),
    ]


def compares_kernels(facts: DeviceFacts, environment: Mapping[str, str], config: RocmConfig) -> bool:
    """Whether TunableOp compares results of kernels in the first steps, which takes memory: it is on, measures, and
    checks numbers, by the plugin or by the environment (where tuning is on unless it says 0)."""
    enabled, tuning = plan_tunableop(facts, environment, config)
    is_on = enabled.is_on or (enabled.is_left_alone and environment.get(ENABLED) == "1")
    measures = tuning.is_on or (tuning.is_left_alone and environment.get(TUNING) != "0")
    return is_on and measures and is_checking(facts.torch.release, environment, config)


def plan_aotriton(facts: DeviceFacts, environment: Mapping[str, str], config: RocmConfig) -> Planned:
    """The gate before AOTriton's kernels, which torch reads once, at the first call of attention."""
    if AOTRITON in environment:
        return Planned(AOTRITON, None, f"is {environment[AOTRITON]!r} in the environment", is_custom=True)
    if config.aotriton_experimental is not None:
        return Planned(AOTRITON, "1" if config.aotriton_experimental else "0", "by option", is_custom=True)
    if facts.arch.startswith(EXPERIMENTAL_ATTENTION):
        return Planned(AOTRITON, "1", f"without it attention on {facts.arch} may be done by matrix products")
    return Planned(AOTRITON, None, f"AOTriton does not call {facts.arch} experimental")
