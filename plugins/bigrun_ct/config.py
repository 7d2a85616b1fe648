"""The options of ct-slices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

import attrs

from bigrun import option
from bigrun.options import above, at_least

__all__ = ["CtConfig", "Encoding"]


def not_zero(value: float) -> str | None:
    """Any number but 0."""
    return None if value != 0 else "expected any number but 0, got 0"


@attrs.frozen
class Encoding:
    """How one data set stores Hounsfield units: HU = (value - hu_offset) * hu_slope. What is absent is as in all."""

    hu_slope: float | None = option(None, check=not_zero, help="HU of one step of the stored values.")
    hu_offset: float | None = option(None, help="Stored value of 0 HU.")
    check_hu: bool | None = option(None, help="false: start although the values do not look like HU of a body in air.")


@attrs.frozen
class CtConfig:
    """What the stored values mean, which slices are seen, and in which order."""

    hu_slope: float = option(
        0.1, check=not_zero, help="HU of one step of the stored values: HU = (value - hu_offset) * hu_slope."
    )
    hu_offset: float = option(32768.0, help="Stored value of 0 HU.")
    check_hu: bool = option(
        True,
        help="A run is refused when values are no HU of a body in air: no slice has a 1st percentile of -1100 to -800 "
        "HU, or some would have it in another encoding that is in use; false: it is not looked at.",
    )
    datasets: Mapping[str, Encoding] = option(
        MappingProxyType({}),
        help="hu_slope, hu_offset and check_hu of one of the data sets that the column `dataset` names, where they "
        "differ: [plugins.ct-slices.datasets.NAME].",
    )
    window_level_hu: tuple[float, float] = option(
        (-400.0, 400.0), help="Each view has an intensity window whose middle is drawn from this range."
    )
    window_width_hu: tuple[float, float] = option((800.0, 2000.0), help="And its width from this one.")
    z_stride: int = option(
        1,
        check=at_least(1),
        help="Every so manieth slice of a series is a sample; its neighbours are those of the whole series.",
    )
    temperature: float = option(
        2.0,
        check=above(0),
        help="A data set of n slices is drawn with weight n^(1 / temperature): 1 by size, large ones all alike.",
    )
    stack_slices: int = option(
        8,
        check=at_least(1),
        help="So many neighbouring samples are seen near each other in time, so that a slice that three of them show "
        "is decoded once; 1: none are.",
    )
    cache_mib: int = option(
        512, check=at_least(0), help="Decoded slices that each worker keeps, in MiB; changes no result. 0: none."
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        for name in ("window_level_hu", "window_width_hu"):
            low, high = getattr(self, name)
            if low > high:
                yield name, f"expected two ascending values, got [{low}, {high}]"
        if self.window_width_hu[0] <= 0:
            yield "window_width_hu", f"expected widths above 0, got {self.window_width_hu[0]}"
