"""Kernels of attention: which may be taken, and which torch takes for the run's heads."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from bigrun.devices import Setting

if TYPE_CHECKING:
    import torch

    from bigrun.devices import Planned

__all__ = [
    "allowed_kernels",
    "apply_attention",
    "attention_refusal",
    "attention_row",
    "chosen_kernel",
    "cudnn_version",
]

NUMBERS = {"math": 0, "flash": 1, "efficient": 2, "cudnn": 3}
"""Of torch.nn.attention.SDPBackend."""
NONE = "none"
TOKENS = 201
"""Of a crop of 224 pixels in patches of 16, with a class token and four storage tokens."""


def allowed_kernels() -> list[str]:
    """Those that torch may take, in its order."""
    import torch

    flags: Any = torch.backends.cuda
    is_allowed = {
        "flash": flags.flash_sdp_enabled(),
        "efficient": flags.mem_efficient_sdp_enabled(),
        "math": flags.math_sdp_enabled(),
        "cudnn": flags.cudnn_sdp_enabled(),
    }
    names = {number: name for name, number in NUMBERS.items()}
    order = [names[number] for number in torch._C._get_sdp_priority_order() if number in names]
    return [name for name in order if is_allowed[name]]


def cudnn_version() -> int | None:
    """91501 for 9.15.1; None where there is no cuDNN."""
    import torch

    cudnn: Any = torch.backends.cudnn
    return cudnn.version()  # type: ignore[no-any-return]


def chosen_kernel(heads: int, head_size: int, dtype: torch.dtype, device: torch.device) -> str:
    """The kernel that torch takes for one crop with gradients; `none` where none of the allowed ones can."""
    import torch

    shape = (1, heads, TOKENS, head_size)
    q, k, v = (torch.empty(shape, dtype=dtype, device=device, requires_grad=True) for _ in range(3))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # where there is none, why not of each
            number = int(torch._fused_sdp_choice(q, k, v))
    except RuntimeError:
        return NONE
    return next((name for name, value in NUMBERS.items() if value == number), NONE)


def apply_attention(planned: Planned) -> Callable[[], None] | None:
    """Allow these kernels alone, in this order, unless it is torch's own; returns what undoes it.

    torch puts its own order in place at the first choice of a kernel, so one must have been made before.
    """
    if planned.value is None:
        return None
    from torch.nn.attention import SDPBackend, sdpa_kernel

    stack = ExitStack()
    backends = [SDPBackend(NUMBERS[name]) for name in planned.value.split(", ")]
    stack.enter_context(sdpa_kernel(backends, set_priority=True))
    return stack.close


def attention_row(planned: Planned, before: list[str], after: list[str], expected: str | None, chosen: str) -> Setting:
    """Whether the kernel that torch takes is the one that is expected; that of math is none to train with, unless the
    user allows it."""
    if planned.value is not None:
        took_effect: bool | None = ", ".join(after) == planned.value and chosen == expected
    else:
        took_effect = False if chosen in ("math", NONE) else True if chosen == expected else None
    told = f"torch takes {chosen} for heads of this size"
    told += "" if chosen == expected else f", where {expected or NONE} was expected"
    if chosen == "math":
        told += "; its memory grows with the square of the tokens"
    names = ", ".join(before)
    return Setting(
        planned.name, names, planned.value or names, took_effect, f"{told}; {planned.reason}", planned.is_custom
    )


def attention_refusal(planned: Planned, chosen: str, arch: str, head_size: int, precision: str) -> str | None:
    """Why nothing can be trained with the kernels that the user allows."""
    if chosen != NONE:
        return None
    return (
        f"{planned.reason}: none of these can do forward and backward pass on {arch} in {precision} with heads of "
        f"{head_size} channels: add 'math', or leave the option out"
    )
