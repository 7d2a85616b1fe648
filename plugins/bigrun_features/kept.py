"""Fixed images that are decoded once, as far as there is room for them."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from bigrun.evaluation.images import FixedImages, Shown

__all__ = ["KeptImages"]

Image = tuple[Tensor, Tensor | None]
"""A crop (C, s, s) in half precision, and its spacing (3,) where the network asks for it."""


class KeptImages:
    """Gives the same batches every time: the first ones from host memory, those without room read again, and so is
    what could not be read. A batch is of the images that all processes of the run have, kept or read.

    Crops are kept in half precision, and rounded to it when they are read again, so that what is measured does not
    depend on the room. Of values in [0, 1] that are normalised it leaves more than 8 bits.
    """

    def __init__(self, images: FixedImages, budget_bytes: float) -> None:
        self._images = images
        self._room = budget_bytes
        self._kept: dict[int, dict[int, Image]] = {}
        """By the first index of a batch that has room: its images by their indices."""

    @property
    def count(self) -> int:
        """Of those that are asked for."""
        return len(self._images.indices)

    @property
    def missing(self) -> set[int]:
        """Indices of those that could not be read the last time."""
        return self._images.missing

    def elsewhere(self) -> str:
        """Which of them other processes could read, in brackets; nothing if none."""
        return self._images.elsewhere()

    def batches(self, device: torch.device, at_once: int) -> Iterator[Shown]:
        """All of them in their order, with crops (b, C, s, s) float32 on a device. Every time with the same
        `at_once`."""
        indices = self._images.indices
        for start in range(0, len(indices), at_once):
            asked = indices[start : start + at_once]
            found = self._images.agreed(asked, functools.partial(self._found, asked, device))
            if found:
                yield together(found, device)

    def _found(self, asked: Sequence[int], device: torch.device) -> Mapping[int, Image]:
        """What this process has kept of a batch, and can read of the rest."""
        kept = self._kept.get(asked[0], {})
        fresh = self._read([index for index in asked if index not in kept], device)
        self._keep(asked, fresh)
        return {**kept, **fresh}

    def _read(self, asked: Sequence[int], device: torch.device) -> dict[int, Image]:
        samples = self._images.alone().read(asked) if asked else None
        if samples is None:
            return {}
        shown = self._images.show(samples, device)
        spacing = [None] * len(shown.crops) if shown.spacing_mm is None else list(shown.spacing_mm)
        return dict(zip(shown.indices.tolist(), zip(shown.crops.half(), spacing, strict=True), strict=True))

    def _keep(self, asked: Sequence[int], fresh: Mapping[int, Image]) -> None:
        """What is kept is the beginning: whole batches, with room for those of them that cannot be read yet."""
        if not fresh:
            return
        if asked[0] not in self._kept:
            crop = next(iter(fresh.values()))[0]
            size = len(asked) * crop.numel() * crop.element_size()
            if size > self._room:
                self._room = 0
                return
            self._room -= size
        kept = self._kept.setdefault(asked[0], {})
        for index, (crop, spacing) in fresh.items():
            # A copy: a row of the batch would keep all of it.
            kept[index] = crop.to("cpu", copy=True), None if spacing is None else spacing.cpu()


def together(images: Mapping[int, Image], device: torch.device) -> Shown:
    crops = torch.stack([crop.to(device) for crop, _ in images.values()]).float()
    spacing = [row.to(device) for _, row in images.values() if row is not None]
    return Shown(torch.tensor(list(images)), crops, torch.stack(spacing) if spacing else None)
