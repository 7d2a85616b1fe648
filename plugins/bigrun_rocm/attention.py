"""Which kernels of attention may be used, decided on what they compute."""

from __future__ import annotations

import math
from collections.abc import Mapping

import attrs

__all__ = ["TOLERANCES", "AttentionChoice", "Measured", "choose_attention"]

TOLERANCES = {"bf16": 2e-2, "fp32": 1e-3}
"""Of the largest value that there should be. On a CPU torch's kernels are off by up to 7e-3 in bf16."""
FUSED = ("flash", "memory-efficient")


@attrs.frozen
class Measured:
    """What one kernel has computed."""

    forward_error: float = math.nan
    """Largest difference to the reference, as a fraction of its largest value; NaN where a number is none."""
    backward_error: float = math.nan
    """The same of the gradients of queries, keys and values."""
    problem: str | None = None
    """Why it did not run."""

    def is_right(self, tolerance: float) -> bool:
        """Whether it ran and its numbers are right; a NaN is not."""
        return self.problem is None and self.forward_error < tolerance and self.backward_error < tolerance

    def __str__(self) -> str:
        if self.problem is not None:
            return f"does not run: {self.problem}"
        return f"off by {self.forward_error:.1e} forward, {self.backward_error:.1e} backward of fp32 on the CPU"


@attrs.frozen
class AttentionChoice:
    """Which kernels torch may take."""

    allowed: Mapping[str, bool]
    """flash, memory-efficient. Where neither may or can be, torch takes math."""
    evidence: Mapping[str, str]
    custom: Mapping[str, bool]
    warnings: tuple[str, ...] = ()
    obstacle: str | None = None
    """Why there is nothing to train with: no kernel is right."""


def choose_attention(
    measured: Mapping[str, Measured], wishes: Mapping[str, bool | None], tolerance: float
) -> AttentionChoice:
    """Forbid fused kernels that compute wrong numbers.

    Args:
        measured: by kernel: flash, memory-efficient, math.
        wishes: the user's, for the first two; None leaves it to the measurement.
        tolerance: errors from which on a kernel is wrong.
    """
    right = {name: result.is_right(tolerance) for name, result in measured.items()}
    wrong = {name for name in measured if not right[name] and measured[name].problem is None}
    custom = {name: wishes.get(name) is not None for name in FUSED}
    allowed = {name: bool(wishes[name]) if custom[name] else name not in wrong for name in FUSED}
    notes = []
    for name in FUSED:
        if name in wrong:
            done = "is used all the same, as its option says" if allowed[name] else "is not used"
            notes.append(f"{name} attention {measured[name]} (allowed: {tolerance:g}): it {done}")
    runs = [name for name in FUSED if allowed[name] and measured[name].problem is None]
    if not runs:
        notes.append(
            "attention is computed by matrix products (math), whose memory grows with the square of the tokens: "
            + "; ".join(f"{name} {measured[name] if allowed[name] else 'is not used'}" for name in FUSED)
        )
    used_math_is_wrong = not runs and not right["math"]
    obstacle = f"no kernel of attention computes right numbers on this GPU: math {measured['math']}"
    return AttentionChoice(
        allowed=allowed,
        evidence={name: str(measured[name]) for name in FUSED},
        custom=custom,
        warnings=tuple(notes),
        obstacle=obstacle if used_math_is_wrong else None,
    )
