"""TunableOp's own check of numbers: no kernel is taken because it is fast and wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import attrs

from bigrun.devices import Planned, Setting

if TYPE_CHECKING:
    from bigrun_rocm.config import RocmConfig

__all__ = ["CHECK", "ENABLED", "TOLERANCES", "Tolerances", "apply_check", "is_checking", "plan_check"]

CHECK = "TunableOp numerical check"
VARIABLE = "PYTORCH_TUNABLEOP_NUMERICAL_CHECK"
ENABLED = "PYTORCH_TUNABLEOP_ENABLED"
PAIRS_SINCE = (2, 10)
"""`1` before, with tolerances of torch's own, which only the environment turns on; `atol_rtol` or `0` from 2.10 on
(pytorch/pytorch pull request 163079)."""


@attrs.frozen
class Tolerances:
    """By how much a kernel's results may differ from those of torch's default kernel: each by
    `atol + rtol * |result|`."""

    atol: float
    rtol: float

    def __str__(self) -> str:
        return f"atol {self.atol:g}, rtol {self.rtol:g}"


TOLERANCES = {"bf16": Tolerances(1e-5, 1.6e-2), "fp32": Tolerances(1e-5, 1e-4)}
"""By `hardware.precision`; bf16 has torch.testing's own. Two sums in fp32 in another order may round to neighbouring
numbers of bf16, which are up to 2^-7 = 0.8 % apart: rtol is two of these. Where a sum nearly vanishes its error does
not: 3e-7 of the root mean square of the results, measured for sums of 12,864 products in portions of 16, so that atol
leaves room for results of 10 and more. Sums in bf16, 7e-3 of it off, and lost portions of a sum are refused; of results
below 1e-5, as some gradients are, only what is no number or far too large."""


def plan_check(release: tuple[int, int], environment: Mapping[str, str], config: RocmConfig, precision: str) -> Planned:
    """On, off, or as the environment says; with an obstacle where torch would stop the run at its first product.

    Args:
        release: of torch.
        precision: `hardware.precision`.
    """
    if VARIABLE in environment:
        value = environment[VARIABLE]
        obstacle = None
        if release >= PAIRS_SINCE and value != "0" and not is_pair(value):
            tolerances = TOLERANCES[precision]
            obstacle = (
                f"{VARIABLE} is {value!r} in the environment; from torch 2.10 on it must be atol_rtol, such as "
                f"{tolerances.atol:g}_{tolerances.rtol:g}, or 0: torch would stop at the first matrix product. Change "
                "it, or unset it: the plugin sets tolerances by itself"
            )
        return Planned(CHECK, None, f"{VARIABLE} is {value!r} in the environment", is_custom=True, obstacle=obstacle)
    if ENABLED in environment:
        return Planned(CHECK, None, f"{ENABLED} is {environment[ENABLED]!r} in the environment", is_custom=True)
    wish = config.tunableop_numerical_check
    value = "off" if wish is False else str(TOLERANCES[precision])
    return Planned(CHECK, value, "fast kernels may be wrong" if wish is None else "by option", wish is not None)


def is_checking(release: tuple[int, int], environment: Mapping[str, str], config: RocmConfig) -> bool:
    """Whether torch will check numbers: as the environment says or, from 2.10 on, as the plugin asks it to."""
    if VARIABLE in environment:
        return is_pair(environment[VARIABLE]) if release >= PAIRS_SINCE else environment[VARIABLE] == "1"
    return release >= PAIRS_SINCE and ENABLED not in environment and config.tunableop_numerical_check is not False


def is_pair(value: str) -> bool:
    """Of two positive numbers, `1e-5_1.6e-2`."""
    try:
        return all(float(part) > 0 for part in value.split("_", 1)) and "_" in value
    except ValueError:
        return False


def apply_check(planned: Planned, precision: str) -> tuple[Setting, Callable[[], None] | None]:
    """Set it, unless it is left alone; returns the row, and what undoes it. torch tells nobody what it is."""
    import torch.cuda.tunable as tunable

    if planned.is_left_alone:
        return Setting(planned.name, None, None, None, planned.reason, planned.is_custom), None
    prefer = getattr(tunable, "set_numerical_check_tolerances", None)
    if prefer is None:
        told = f"torch before 2.10 has it in the environment alone ({VARIABLE}=1)"
        return Setting(planned.name, None, planned.value, False, told, planned.is_custom), None
    tolerances = TOLERANCES[precision]
    prefer(planned.value != "off", tolerances.atol, tolerances.rtol)
    evidence = f"torch has taken it, and does not tell it; {planned.reason}"
    return Setting(planned.name, None, planned.value, None, evidence, planned.is_custom), lambda: prefer(False)
