"""Images as the network is shown them when nothing is drawn at random: the same ones every time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import attrs
import torch
from torch import Tensor

from bigrun.data.dataset import Samples
from bigrun.data.decoder import usable
from bigrun.data.tone import Steady
from bigrun.data.views import Views
from bigrun.errors import DataError
from bigrun.evaluation.common import lacked
from bigrun.evaluation.part import Part
from bigrun.peers.peers import Peers

if TYPE_CHECKING:
    from bigrun.run import Run

__all__ = ["FixedImages", "Shown", "evenly_spread"]

T = TypeVar("T")
AT_ONCE = 32
NAMED = 3
"""So many of the images that only some processes can read are named; of the others, how many they are."""


def evenly_spread(count: int, total: int) -> list[int]:
    """At most `count` of `total` numbers, in the middle of equal stretches."""
    count = min(count, total)
    return [(2 * k + 1) * total // (2 * count) for k in range(count)]


@attrs.frozen(eq=False)
class Shown:
    """Some images, decoded and ready for a network."""

    indices: Tensor  # (b,) int64 on the CPU, in the data set
    crops: Tensor  # (b, C, s, s) float32 on the asked device: the central square, normalised as in training
    spacing_mm: Tensor | None  # (b, 3), for a network with a scale embedding


class FixedImages:
    """The central squares of some samples, each resized to one side, in the tone's typical values.

    Nothing is drawn, and no state of the run is touched: training goes on as if nobody had looked. What cannot be read
    is left out, and is in `missing`: whoever looks says so.

    The processes of a run look together: what one of them cannot read is left out on all, which so make the same
    forward passes. To read is therefore something that all do, in the same order; `alone` is for one that looks without
    the others.
    """

    def __init__(self, run: Run, indices: Sequence[int], side_px: int | None = None, part: Part | None = None) -> None:
        """
        Args:
            indices: of samples in the part.
            side_px: cut down to a multiple of the patch; by default that of the (first) global crops.
            part: where the samples are; by default `Part.of(run)`.
        """
        config, patch = run.config, run.config.model.patch_size_px
        self.side_px = max((side_px or config.views.pairs[0][0]) // patch, 1) * patch
        self.part = part or Part.of(run)
        self.indices = list(indices)
        self.missing: set[int] = set()
        """Those that could not be read, by this process or another, when they were last asked for."""
        self._lacking: dict[int, list[int]] = {}
        """Of those, the ranks of the processes that could not."""
        self._peers = run.peers
        self._mean, self._std = (torch.tensor(v).view(-1, 1, 1) for v in (config.views.mean, config.views.std))
        self._views = Views(
            config.views.undistorted(self.side_px),
            config.model.in_channels,
            config.run.seed,
            tone=Steady(self.part.tone),
            spacing_mm=self.part.spacing_mm,
            pin_memory=False,
        )

    @classmethod
    def spread(cls, run: Run, count: int, side_px: int | None = None) -> FixedImages:
        """At most `count`, evenly spread over the part that is looked at."""
        part = Part.of(run)
        return cls(run, evenly_spread(count, len(part.dataset)), side_px, part)

    def alone(self) -> FixedImages:
        """The same ones for this process, which waits for no other."""
        own = copy.copy(self)
        own._peers, own.missing, own._lacking = Peers(), set(), {}
        return own

    def batches(self, device: torch.device, at_once: int = AT_ONCE) -> Iterator[Shown]:
        """All of them, in their order, at most `at_once` at a time, with crops on a device."""
        for samples in self.samples(at_once):
            yield self.show(samples, device)

    def samples(self, at_once: int = AT_ONCE) -> Iterator[Samples]:
        """All of them as they were decoded, in their order: for whoever makes other views of them, too."""
        for start in range(0, len(self.indices), at_once):
            if samples := self.read(self.indices[start : start + at_once]):
                yield samples

    def read(self, indices: Sequence[int]) -> Samples | None:
        """Those of some samples that can be read, decoded, in their order; None where there is none.

        Raises:
            OSError, MemoryError: this process has run out of open files or of memory.
            FailedElsewhereError: another one has.
        """
        images = self.agreed(indices, lambda: dict(self._read(indices)))
        if not images:
            return None
        found = torch.tensor(list(images))
        return Samples.pack(list(images.values()), found, torch.zeros_like(found))

    def agreed(self, indices: Sequence[int], read: Callable[[], Mapping[int, T]]) -> dict[int, T]:
        """What this process has of images that all processes have, in the order of `indices`; the others are missing.

        Args:
            read: gives what this process has, by index; it may raise.
        """
        mine: Mapping[int, T] = {}

        def have() -> Mapping[int, T]:
            nonlocal mine
            mine = read()
            return mine

        lacking = lacked(self._peers, indices, have)
        for index in indices:
            self._lacking.pop(index, None)
        self._lacking |= lacking
        self.missing = (self.missing - set(indices)) | lacking.keys()
        return {index: mine[index] for index in indices if index not in lacking}

    def show(self, samples: Samples, device: torch.device) -> Shown:
        """Decoded images of the part as the network is shown them."""
        batch, count = self._views(samples, device, step=1), len(samples)
        spacing = batch.global_spacing_mm
        return Shown(samples.indices, batch.global_crops[:count], None if spacing is None else spacing[:count])

    def _read(self, indices: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        for index in indices:
            try:
                yield index, usable(self.part.dataset, index, self._views.channels)
            except DataError:
                continue

    def where(self, index: int) -> str:
        """Of a missing image that other processes could read: ` on process 1 on node-b`; else nothing."""
        ranks = self._lacking.get(index, [])
        if len(ranks) in (0, self._peers.size):
            return ""
        others = f" and {len(ranks) - 1} more" if len(ranks) > 1 else ""
        return f" on {self._peers.name(ranks[0])}{others}"

    def elsewhere(self) -> str:
        """Which of the missing ones other processes could read, in brackets, the first by name; nothing if none."""
        some = [index for index in sorted(self.missing) if self.where(index)]
        names = [f"{self.part.name(index)}{self.where(index)}" for index in some[:NAMED]]
        names += [f"and {len(some) - NAMED:,} more"] if len(some) > NAMED else []
        return f" ({', '.join(names)})" if some else ""

    def plain(self, crops: Tensor) -> Tensor:
        """Crops (n, C, H, W) as pictures: in [0, 1], on the CPU."""
        return (crops.detach().float().cpu() * self._std + self._mean).clamp(0, 1)
