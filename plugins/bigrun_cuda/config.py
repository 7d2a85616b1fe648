"""Options of cuda-tuning: one for each setting; absent means that the plugin decides."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import attrs

from bigrun import option
from bigrun_cuda.kernels import KERNELS, known_kernels

__all__ = ["CudaConfig"]


@attrs.frozen
class CudaConfig:
    """What is set on an NVIDIA GPU. An absent option is decided by the plugin, which says why; on other devices nothing
    is set."""

    tf32: bool | None = option(
        None,
        help="Matrix products of fp32 in TF32 (10 bits of mantissa, where bf16 has 7); absent: where the GPU has it, "
        "unless `hardware.precision` is fp32.",
    )
    bf16_sums: Literal["fast", "precise"] | None = option(
        None,
        help="Partial sums of matrix products in bf16: fast (they may be added in bf16) or precise (in fp32); absent: "
        "fast, torch's own.",
    )
    attention: tuple[str, ...] | None = option(
        None,
        check=known_kernels,
        help=f"Kernels of attention that torch may take, the first that can is taken: some of {', '.join(KERNELS)}; "
        "absent: torch's own order.",
    )
    cudnn_benchmark: bool | None = option(
        None,
        help="Let cuDNN measure its convolutions; absent: no, for the network has one, and each size of crops would be "
        "measured anew.",
    )
    expandable_segments: bool | None = option(
        None,
        help="Let the allocator's segments grow, so that less memory is lost between them; absent: yes, unless "
        "PYTORCH_CUDA_ALLOC_CONF or PYTORCH_ALLOC_CONF is set.",
    )
    compile: bool | None = option(
        None,
        help="Compile each block of the networks (torch.compile); the first step takes minutes. Absent: no.",
    )
    fp8: bool | None = option(
        None,
        help="Linear layers of the blocks in fp8, by torchao (extra fp8): for GPUs from sm_89 on, and wide networks. "
        "Absent: no.",
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.fp8 and not self.compile:
            yield "fp8", "needs compile = true: without it the conversions to fp8 take longer than the products save"
