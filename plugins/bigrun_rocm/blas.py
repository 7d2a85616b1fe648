"""The library for matrix products: set, and asked what torch makes of it."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from typing import Any

from bigrun.devices import Planned, Setting

__all__ = ["apply_blas"]

NAMES = {"default": "Default", "cublas": "Cublas", "cublaslt": "Cublaslt"}
"""Of torch, which has no others for ROCm's: cublas is rocBLAS, cublaslt hipBLASLt."""


def apply_blas(planned: Planned) -> tuple[Setting, Callable[[], None] | None]:
    """Prefer a library, unless it is left alone; returns the row, and what undoes it.

    torch falls back by itself where the library has no kernels for the GPU, and says so only in a warning.
    """
    import torch

    prefer: Callable[..., Any] = torch.backends.cuda.preferred_blas_library
    before = prefer()
    if planned.value is None:
        return Setting(planned.name, before.name, before.name, None, planned.reason, planned.is_custom), None
    said = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            prefer(planned.value)
        except RuntimeError as error:
            said.append(str(error).splitlines()[0])
        after = prefer()
    said += [str(warning.message).splitlines()[0] for warning in caught]
    told = f"; torch says: {'; '.join(said)}" if said else ""
    took = after.name == NAMES[planned.value]
    evidence = f"preferred_blas_library() is {after.name}; {planned.reason}{told}"
    row = Setting(planned.name, before.name, planned.value, took, evidence, planned.is_custom)
    return row, lambda: _restore(prefer, before)


def _restore(prefer: Callable[..., Any], before: Any) -> None:
    with contextlib.suppress(RuntimeError):  # a build without the library, for which nothing was set
        prefer(before)
