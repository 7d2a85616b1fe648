"""What is known of GPUs: memory and peak speed. One that is not listed has neither: nothing is guessed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from bigrun.devices import DeviceFacts

__all__ = ["GPUS", "USABLE_FRACTION", "Gpu", "find_gpu", "gpu_of", "peak_flops"]

GIB = 2**30

USABLE_FRACTION = 0.98
"""Of the memory that a card is sold with, at least so much is what torch calls its total capacity.

Said by out-of-memory messages: RTX 4090 23.64 of 24 GiB (github.com/ali-vilab/VGen/issues/104), RTX 5090 31.36 of 32
(github.com/TrajectoryCrafter/TrajectoryCrafter/issues/20), A100 39.50 of 40 (github.com/TianheWu/CoSeR/issues/10) and
79.14 of 80 (github.com/lianqi1008/Control-GIC/issues/6).
"""


@attrs.frozen
class Gpu:
    """One model, by a part of the name that torch has for it.

    `sold_gib` is the memory on the maker's data sheet; None where it depends on the machine. `peak_tflops` is dense
    bf16 with accumulation in fp32.
    """

    name: str
    sold_gib: int | None
    peak_tflops: float

    @property
    def memory_bytes(self) -> int | None:
        """What torch will find; None where it depends on the machine."""
        return None if self.sold_gib is None else int(USABLE_FRACTION * self.sold_gib * GIB)


# Both numbers are from the makers' data sheets and architecture white papers: NVIDIA Ampere GA102, Ada and Blackwell
# (RTX), A100, H100, H200; AMD Instinct MI300X. The A100 comes with 40 or 80 GB: without the size in its name the memory
# is not known. The Radeon 8060S (Strix Halo) computes 512 operations a clock in each of 40 compute units at 2.9 GHz;
# its memory is the share of the machine's that BIOS and kernel give it.
GPUS = (
    Gpu("RTX 3090", 24, 71.0),
    Gpu("RTX 4090", 24, 165.2),
    Gpu("RTX 5090", 32, 209.5),
    Gpu("A100", None, 312.0),
    Gpu("A100-SXM4-40GB", 40, 312.0),
    Gpu("A100-PCIE-40GB", 40, 312.0),
    Gpu("A100-SXM4-80GB", 80, 312.0),
    Gpu("A100 80GB", 80, 312.0),
    Gpu("H100", 80, 989.0),
    Gpu("H100 PCIe", 80, 756.0),
    Gpu("H100 NVL", 94, 835.0),
    Gpu("H200", 141, 989.0),
    Gpu("H200 NVL", 141, 835.0),
    Gpu("MI300X", 192, 1307.4),
    Gpu("8060S", None, 59.4),
)

# Drivers give gfx1151 several names, also that of its smaller sister, so that it is known by architecture and number of
# units: 40 compute units, which torch counts in pairs.
CHIPS = {("gfx1151", 20): "8060S", ("gfx1151", 40): "8060S"}

# Sisters with less of everything, or more; and a slice of a GPU.
SISTERS = re.compile(r"\b(laptop|max-q|mobile|ti|mig)\b| d\b")


def find_gpu(name: str) -> Gpu | None:
    """The listed GPU whose name is in `name`, the longest if several are; None when none is."""
    if SISTERS.search(name.lower()):
        return None
    found = [gpu for gpu in GPUS if re.search(rf"\b{re.escape(gpu.name.lower())}\b", name.lower())]
    found = found or [gpu for gpu in GPUS if squeezed(gpu.name) == squeezed(name)]
    return max(found, key=lambda gpu: len(gpu.name), default=None)


def squeezed(name: str) -> str:
    """As people type it: `rtx4090`."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def gpu_of(facts: DeviceFacts) -> Gpu | None:
    """The listed GPU that a device is; None for a CPU, and for one that is not listed."""
    if not facts.is_gpu:
        return None
    if facts.arch in {arch for arch, _ in CHIPS} and facts.multiprocessors is not None:
        chip = CHIPS.get((facts.arch, facts.multiprocessors))
        return None if chip is None else find_gpu(chip)
    return find_gpu(facts.name)


def peak_flops(name: str) -> float | None:
    """Peak operations per second of a device by the name that torch has for it; None for one that is not listed."""
    gpu = find_gpu(name)
    return None if gpu is None else 1e12 * gpu.peak_tflops
