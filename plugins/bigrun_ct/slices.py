"""Decoded slices, and those of them that may be needed again soon."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

__all__ = ["SliceCache"]


class SliceCache:
    """Keeps the slices used last, up to so many bytes. One process has one; nobody sees whether it does."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self.decoded = 0
        """Slices that were not here."""
        self._slices: OrderedDict[int, Tensor] = OrderedDict()

    def get(self, number: int, decode: Callable[[int], Tensor]) -> Tensor:
        """The slice, decoded if it is not here. It is shared: do not change it."""
        if number in self._slices:
            self._slices.move_to_end(number)
            return self._slices[number]
        pixels = decode(number)
        self.decoded += 1
        if pixels.nbytes <= self.limit_bytes:
            self._slices[number] = pixels
            self.held_bytes += pixels.nbytes
        while self.held_bytes > self.limit_bytes:
            _, oldest = self._slices.popitem(last=False)
            self.held_bytes -= oldest.nbytes
        return pixels
