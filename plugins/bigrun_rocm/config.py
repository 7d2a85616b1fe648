"""Options of rocm-tuning: one for each setting; absent means that the plugin decides."""

from __future__ import annotations

import attrs

from bigrun import option
from bigrun.options import above, at_least, not_blank, within

__all__ = ["RocmConfig"]


@attrs.frozen
class RocmConfig:
    """What is set on an AMD GPU. An absent option is decided by the plugin, which says why; on other devices nothing
    is set."""

    hipblaslt: bool | None = option(
        None,
        help="Prefer hipBLASLt to rocBLAS for matrix products; absent: where this ROCm has it for the GPU.",
    )
    tunableop: bool | None = option(
        None,
        help="Let TunableOp measure the kernels of both libraries for each shape of a matrix product, and use the "
        "fastest; absent: on gfx1150 and gfx1151.",
    )
    tunableop_warmup_steps: int | None = option(
        None,
        check=at_least(1),
        effective=lambda c: c.tunableop is not False,
        otherwise="tunableop = false",
        help="TunableOp measures new shapes in the first steps of a process, until none is new in 5 steps for each "
        "pair of crop sizes (20 with model.drop_path_fraction), and in so many steps at most; after them it only uses "
        "what it knows. Absent: 20 for each pair of crop sizes (80).",
    )
    tunableop_numerical_check: bool | None = option(
        None,
        effective=lambda c: c.tunableop is not False,
        otherwise="tunableop = false",
        help="TunableOp passes over kernels whose results differ from those of torch's default kernel by more than "
        "rounding; absent: yes.",
    )
    cache_directory: str | None = option(
        None,
        check=not_blank(),
        help="Where results of TunableOp and MIOpen are kept for later runs, in a folder for each GPU architecture and "
        "version of torch and ROCm; absent: $XDG_CACHE_HOME/bigrun/rocm, or ~/.cache/bigrun/rocm.",
    )
    miopen_cache: bool | None = option(
        None,
        help="Keep MIOpen's kernels and results in a folder for each version of torch and ROCm, since old ones crash "
        "after an upgrade; absent: yes.",
    )
    aotriton_experimental: bool | None = option(
        None,
        help="Allow AOTriton's kernels of attention on architectures that it calls experimental; absent: on gfx11.",
    )
    flash_attention: bool | None = option(
        None, help="Flash attention; absent: unless its numbers are wrong in the self-test at the start."
    )
    memory_efficient_attention: bool | None = option(
        None, help="Memory-efficient attention; absent: unless its numbers are wrong in the self-test at the start."
    )
    expandable_segments: bool | None = option(
        None,
        help="Let the allocator's segments grow; absent: no, since that crashes and hangs under ROCm "
        "(pytorch/pytorch issues 187343 and 192259).",
    )
    garbage_collection_fraction: float | None = option(
        None,
        check=within(0, 1),
        help="Fraction of the memory limit from which the allocator gives back blocks that it does not use, before it "
        "asks for more; absent: 0.8.",
    )
    memory_limit_gib: float | None = option(
        None,
        check=above(0),
        help="Memory that torch may take on the device; absent: the budget where the GPU shares the host's memory, "
        "else no limit.",
    )
    host_reserve_gib: float | None = option(
        None,
        check=at_least(0),
        effective=lambda c: c.memory_limit_gib is None,
        otherwise="memory_limit_gib is set, and no budget is computed",
        help="What the budget leaves to the host; absent: 4 GiB for the system, the copy from which a checkpoint is "
        "written, and for each of `data.workers` 0.5 GiB and the images that wait, 4 MB each.",
    )
    synchronize_after_backward: bool = option(
        False,
        help="Wait for the GPU after every backward pass: slower, and a kernel that fails is named where it failed.",
    )
