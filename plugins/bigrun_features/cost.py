"""What the looks really cost: their share of the time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch

__all__ = ["LIMIT", "Cost"]

LIMIT = 0.02
"""A share above this is said."""


class Cost:
    """Measures wall time; no state is kept of it."""

    def __init__(self) -> None:
        self.share: float | None = None
        """Of the time since the look before; None before the second, for the first decodes the images."""
        self.seconds = 0.0
        """Of the newest look."""
        self.is_said = False
        self._ended: float | None = None

    @contextlib.contextmanager
    def measured(self, device: torch.device) -> Iterator[None]:
        """Around a look."""
        torch.zeros((), device=device).item()  # what the step still has to do is not the look's
        began = time.perf_counter()
        yield
        ended = time.perf_counter()
        self.seconds = ended - began
        if self._ended is not None:
            self.share = self.seconds / max(ended - self._ended, 1e-9)
        self._ended = ended

    def is_news(self) -> bool:
        """Whether it is above the limit, and was not before."""
        was, self.is_said = self.is_said, self.share is not None and self.share > LIMIT
        return self.is_said and not was
