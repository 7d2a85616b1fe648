"""Which kernel computes attention: what cuda-tuning says, and what torch's profiler has seen."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from gpu_checks.check import Figures

if TYPE_CHECKING:
    from gpu_checks.subject import Subject

__all__ = ["kernel_of_names", "kernel_of_operators", "measure", "problems"]

TOKENS = (37, 197, 261, 1024)
"""Of crops of 96, 224 and 256 pixels, and of 512."""
HEADS, HEAD_SIZE = 6, 64
OPERATORS = {
    "cudnn": ("_scaled_dot_product_cudnn_attention",),
    "flash": ("_scaled_dot_product_flash_attention",),
    "efficient": ("_scaled_dot_product_efficient_attention",),
    "math": ("_scaled_dot_product_attention_math",),
    "products": ("softmax",),
}
"""Parts of the names of torch's operators, the most telling first."""
KERNELS = {
    "cudnn": ("cudnn_generated", "cudnn", "native_sdpa"),
    "flash": ("flash_fwd", "flash_bwd", "attn_fwd", "FmhaFwd"),
    "efficient": ("fmha_cutlass", "AttentionKernel", "efficient_attention"),
    "math": ("softmax",),
}
"""Parts of the names of kernels on the GPU."""


def measure(subject: Subject) -> Figures:
    from bigrun.devices import Planned
    from bigrun_cuda.attention import allowed_kernels, apply_attention, chosen_kernel
    from bigrun_cuda.plan import ATTENTION

    if subject.facts.backend == "rocm":
        subject.require_nvidia("what cuda-tuning says of kernels is about NVIDIA GPUs")
    import torch

    device = subject.device
    reported = chosen_kernel(HEADS, HEAD_SIZE, torch.bfloat16, device)
    own = allowed_kernels()
    rows = [row_of(subject, tokens, reported) for tokens in TOKENS]
    alone = []
    for name in allowed_alone(subject):
        undo = apply_attention(Planned(ATTENTION, name, "asked for"))
        try:
            chosen = chosen_kernel(HEADS, HEAD_SIZE, torch.bfloat16, device)
            alone.append({"allowed": name, "reported": chosen, **seen(subject, TOKENS[-1])})
        finally:
            assert undo is not None
            undo()
    return {
        "backend": subject.facts.backend,
        "reported": reported,
        "expected": expected(subject),
        "order": own,
        "order_after": allowed_kernels(),
        "tokens": rows,
        "alone": alone,
    }


def expected(subject: Subject) -> str | None:
    """By the rules of `bigrun_cuda.kernels`; None on a CPU."""
    from bigrun_cuda.attention import cudnn_version
    from bigrun_cuda.kernels import expected_kernel, kernel_order

    capability = subject.facts.capability
    if capability is None:
        return None
    order = kernel_order(capability, cudnn_version(), os.environ)
    return expected_kernel(order, capability, cudnn_version(), HEAD_SIZE, "bf16")


def allowed_alone(subject: Subject) -> list[str]:
    """Kernels that can do this work here."""
    from bigrun_cuda.attention import cudnn_version
    from bigrun_cuda.kernels import KERNELS as NAMES
    from bigrun_cuda.kernels import expected_kernel

    capability = subject.facts.capability
    if capability is None:
        return ["flash", "math"]
    return [n for n in NAMES if expected_kernel([n], capability, cudnn_version(), HEAD_SIZE, "bf16") == n]


def row_of(subject: Subject, tokens: int, reported: str) -> dict[str, Any]:
    """On a CPU short crops are multiplied out, which cuda-tuning knows nothing of."""
    from bigrun.model.attention import PRODUCT_TOKENS

    meant = "products" if not subject.is_gpu and tokens <= PRODUCT_TOKENS else reported
    return {"tokens": tokens, "meant": meant, **seen(subject, tokens)}


def seen(subject: Subject, tokens: int) -> dict[str, Any]:
    """What the engine's own attention runs, forward and backward."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from bigrun.model.attention import attend_by_group

    shape = (2, HEADS, tokens, HEAD_SIZE)
    q, k, v = (torch.randn(shape, device=subject.device, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))

    def both_ways() -> None:
        torch.autograd.grad(attend_by_group([(q, k, v)])[0].sum(), (q, k, v))

    both_ways()  # plans and caches are made
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if subject.is_gpu else [])]
    with profile(activities=activities) as profiler:
        both_ways()
        if subject.is_gpu:
            torch.cuda.synchronize()
    events = list(profiler.events() or [])
    on_gpu = sorted({e.name for e in events if str(e.device_type).endswith("CUDA")})
    operators = {e.name for e in events if e.name.startswith("aten::")}
    return {
        "operator": kernel_of_operators(operators),
        "kernel": kernel_of_names(on_gpu),
        "kernels": [name[:100] for name in on_gpu if kernel_of_names([name])],
    }


def kernel_of_operators(names: Iterable[str]) -> str | None:
    """Of the operators that were called."""
    return first_found(OPERATORS, names)


def kernel_of_names(names: Iterable[str]) -> str | None:
    """Of kernels on a GPU; None where none of them is one of attention."""
    return first_found(KERNELS, names)


def first_found(known: Mapping[str, tuple[str, ...]], names: Iterable[str]) -> str | None:
    lower = [name.lower() for name in names]
    return next((key for key, parts in known.items() if any(p.lower() in n for p in parts for n in lower)), None)


def problems(figures: Mapping[str, Any]) -> Iterator[str]:
    if figures["expected"] is not None and figures["reported"] != figures["expected"]:
        yield f"torch takes {figures['reported']}, {figures['expected']} was expected"
    if figures["backend"] == "cuda" and figures["reported"] in ("math", "none"):
        yield f"attention is computed by {figures['reported']}"
    if figures["order_after"] != figures["order"]:
        yield f"the order was not given back: {figures['order_after']}"
    rows = [(f"{row['tokens']} tokens", row["meant"], row) for row in figures["tokens"]]
    rows += [(f"{row['allowed']} alone", row["allowed"], row) for row in figures["alone"]]
    for what, meant, row in rows:
        if row.get("reported", meant) != meant:
            yield f"{what}: torch takes {row['reported']}"
        if row["operator"] != meant:
            yield f"{what}: the operator of {row['operator']} was called, not that of {meant}"
        if row["kernel"] not in (None, meant):
            yield f"{what}: the kernel {row['kernel']} ran, not {meant}"
