"""Options of memory-savers: each is off unless it is asked for."""

from __future__ import annotations

from typing import Literal

import attrs

from bigrun import option

__all__ = ["SaversConfig", "States"]

States = Literal["fp32", "bf16", "8bit"]


@attrs.frozen
class SaversConfig:
    """What is done to need less memory. Each has a price, in time or in digits: docs/how-to/save-memory.md."""

    optimizer_states: Literal["fp32", "bf16", "8bit"] = option(
        "fp32",
        help="Type in which AdamW keeps its two averages between steps: 8, 4 or 2 bytes for a parameter; 8bit needs "
        "torchao (extra 8bit).",
    )
    update_in_backward: bool = option(
        False,
        help="Gradients are never there all at once: a second backward pass updates each parameter as soon as its "
        "gradient has come. The same numbers, for 0.5 to 0.65 more compute; only without accumulation.",
    )
    activation_offload: bool = option(
        False,
        help="What the student's backbone keeps for its backward pass waits in host memory. The same numbers; no "
        "effect on a CPU and where GPU and host share their memory.",
    )
    teacher_offload: bool = option(
        False,
        help="The weights of the teacher's backbone are in host memory but for its forward passes and its update. The "
        "same numbers; no effect on a CPU and where GPU and host share their memory.",
    )
