"""Fixed images that are decoded once, as far as there is room for them."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from bigrun.evaluation.images import FixedImages, Shown

__all__ = ["KeptImages"]


class KeptImages:
    """Gives the same batches every time: the first ones from host memory, those without room read again.

    Crops are kept in half precision, and rounded to it when they are read again, so that what is measured does not
    depend on the room. Of values in [0, 1] that are normalised it leaves more than 8 bits.
    """

    def __init__(self, images: FixedImages, budget_bytes: float) -> None:
        self._images = images
        self._room = budget_bytes
        self._kept: list[Shown] = []

    def batches(self, device: torch.device, at_once: int) -> Iterator[Shown]:
        """All of them in their order, with crops (b, C, s, s) float32 on a device. Every time with the same
        `at_once`."""
        for kept in self._kept:
            yield moved(kept, device)
        fresh: list[Shown] = []
        for shown in self._images.batches(device, at_once):
            rounded = Shown(shown.indices, shown.crops.half(), shown.spacing_mm)
            size = rounded.crops.numel() * rounded.crops.element_size()
            if size <= self._room:
                self._room -= size
                fresh.append(moved(rounded, torch.device("cpu"), torch.float16))
            else:
                self._room = 0  # what is kept is the beginning
            yield moved(rounded, device)
        self._kept += fresh
        if fresh:
            last = self._images.indices.index(int(fresh[-1].indices[-1]))
            self._images.indices = self._images.indices[(last // at_once + 1) * at_once :]


def moved(shown: Shown, device: torch.device, dtype: torch.dtype = torch.float32) -> Shown:
    spacing = None if shown.spacing_mm is None else shown.spacing_mm.to(device)
    return Shown(shown.indices, shown.crops.to(device, dtype), spacing)
