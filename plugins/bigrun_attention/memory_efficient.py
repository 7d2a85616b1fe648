"""xformers' memory-efficient attention with a block-diagonal mask, and what its installation says of itself."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bigrun_attention.needs import Work, XformersFacts
from bigrun_attention.packing import lengths_of

if TYPE_CHECKING:
    from bigrun.model.groups import Group
    from bigrun_attention.kernel import Attend

__all__ = ["build_memory_efficient", "read_xformers"]

FMHA = "xformers.ops.fmha"


def build_memory_efficient() -> Attend:
    """
    Raises:
        ImportError: there is no xformers.
    """
    fmha: Any = importlib.import_module(FMHA)

    @functools.lru_cache(maxsize=128)  # as for starts_of; the mask holds the same (sequences + 1,) int32 tensor
    def mask_of(groups: tuple[Group, ...], device: torch.device) -> Any:
        with torch.inference_mode(mode=False):
            return fmha.BlockDiagonalMask.from_seqlens(lengths_of(groups), device=device)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def attend(q: Tensor, k: Tensor, v: Tensor, groups: tuple[Group, ...]) -> Tensor:
        mask = mask_of(groups, q.device)
        mixed: Tensor = fmha.memory_efficient_attention(q[None], k[None], v[None], attn_bias=mask)  # (1, T, h, d)
        return mixed[0]

    return attend  # type: ignore[no-any-return]


def read_xformers(device: torch.device, work: Work) -> XformersFacts:
    """What is installed, whether it can be imported, and what each operator says of such work on this device."""
    try:
        version = importlib.metadata.version("xformers")
    except importlib.metadata.PackageNotFoundError:
        return XformersFacts()
    try:
        fmha: Any = importlib.import_module(FMHA)
    except Exception as error:  # a wheel for another torch fails in many ways: missing libraries, schemas, versions
        return XformersFacts(version, import_error=f"{type(error).__name__}: {error}")
    return XformersFacts(version, library_error=library_error(), operators=operators(fmha, device, work))


def library_error() -> str | None:
    """Why xformers' own compiled part is not loaded."""
    library = importlib.import_module("xformers._cpp_lib")
    error = getattr(library, "_cpp_library_load_exception", None)
    return None if error is None else " ".join(str(error).partition("Please reinstall")[0].split())


def operators(fmha: Any, device: torch.device, work: Work) -> dict[str, tuple[str, ...]]:
    """For each operator by name why it does not take such work; nothing where it does."""
    tokens = torch.empty(1, 16, work.heads, work.head_size, dtype=getattr(torch, work.dtype), device=device)
    mask = fmha.BlockDiagonalMask.from_seqlens([10, 6], device=device)
    inputs = fmha.Inputs(tokens, tokens, tokens, attn_bias=mask)
    known = (*fmha.ALL_FW_OPS, *fmha.ALL_BW_OPS)
    return {operator.NAME: tuple(operator.not_supported_reasons(inputs)) for operator in known}
