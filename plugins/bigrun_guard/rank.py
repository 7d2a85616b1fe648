"""RankMe of the class tokens that the teacher gives in training."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bigrun.evaluation.rank import rank_me

__all__ = ["ROWS", "RankMeter"]

ROWS = 1024
"""Fewer class tokens say too little."""


class RankMeter:
    """Collects class tokens in the last steps before a multiple of `every_steps`, and measures them then.

    What is collected is not part of a checkpoint: of a run that is continued in the middle of these steps, this one
    measurement is left out.
    """

    def __init__(self, every_steps: int, rows: int) -> None:
        """`rows`: class tokens of a step."""
        self.steps = max(math.ceil(ROWS / max(rows, 1)), 1)
        self.every_steps = max(every_steps, self.steps)
        self._tokens: list[Tensor] = []
        self._due: int | None = None

    def collect(self, step: int, tokens: Tensor) -> None:
        """Class tokens (n, D) of a micro-batch; kept if they are wanted."""
        due = math.ceil(step / self.every_steps) * self.every_steps
        if step <= due - self.steps:
            return
        if due != self._due:
            self._tokens, self._due = [], due
        self._tokens.append(tokens.detach())

    def measure(self, step: int) -> dict[str, float]:
        """`rank_me`, and `rank_fraction`, which is that over what is possible; nothing if it is not due."""
        if self._due is None or step < self._due:
            return {}
        tokens = torch.cat(self._tokens).float().cpu()
        self._tokens, self._due = [], None
        if len(tokens) < ROWS:
            return {}
        rank = rank_me(tokens)
        return {"rank_me": rank, "rank_fraction": rank / min(tokens.shape)}
