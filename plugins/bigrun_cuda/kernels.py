"""Kernels of attention: which of them torch takes, known from the GPU, cuDNN's version and the size of a head.

Rules of torch 2.10 to 2.15, aten/src/ATen/native/transformers/cuda/sdp_utils.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["DEPRIORITIZED", "KERNELS", "expected_kernel", "kernel_order", "known_kernels"]

KERNELS = ("cudnn", "flash", "efficient", "math")
"""As options name them."""
DEPRIORITIZED = "TORCH_CUDNN_SDPA_DEPRIORITIZED"
NO_FLASH_BACKWARD = ((8, 6), (8, 9), (12, 0), (12, 1))
"""Compute capabilities whose shared memory is too small for the backward pass of flash attention with heads of 193 to
224."""


def known_kernels(names: tuple[str, ...]) -> str | None:
    """Some of the kernels, each once."""
    if names and set(names) <= set(KERNELS) and len(set(names)) == len(names):
        return None
    return f"expected some of {', '.join(KERNELS)}, each once; got {list(names)}"


def kernel_order(capability: tuple[int, int], cudnn: int | None, environment: Mapping[str, str]) -> tuple[str, ...]:
    """torch's own order. cuDNN is the first on Hopper and on data-centre Blackwell, from the version on in which
    lengths that are no multiple of 128 were mended.

    Args:
        cudnn: as `torch.backends.cudnn.version()`: 91501 for 9.15.1.
    """
    major, minor = capability
    is_deprioritized = environment.get(DEPRIORITIZED, "").lower() in ("1", "true", "on", "y", "yes")
    if (cudnn or 0) > 91500 and major in (9, 10) and minor in (0, 3) and not is_deprioritized:
        return ("cudnn", "flash", "efficient", "math")
    return ("flash", "efficient", "math", "cudnn")


def expected_kernel(
    order: Sequence[str], capability: tuple[int, int], cudnn: int | None, head_size: int, precision: str
) -> str | None:
    """The first that can do forward and backward pass without a mask and without dropout; None: none of them can.

    Args:
        precision: `bf16` or `fp32`.
    """
    return next((name for name in order if is_able(name, capability, cudnn, head_size, precision)), None)


def is_able(name: str, capability: tuple[int, int], cudnn: int | None, head_size: int, precision: str) -> bool:
    is_bf16, major = precision == "bf16", capability[0]
    if name == "cudnn":
        largest = 256 if major in (9, 10) and (cudnn or 0) >= 92200 else 128
        return cudnn is not None and is_bf16 and major >= 8 and head_size % 8 == 0 and head_size <= largest
    if name == "flash":
        is_refused = capability in NO_FLASH_BACKWARD and 192 < head_size <= 224
        return is_bf16 and (8, 0) <= capability <= (12, 1) and head_size <= 256 and not is_refused
    if name == "efficient":
        return (5, 0) <= capability <= (12, 1) and (not is_bf16 or major >= 8)
    return True
