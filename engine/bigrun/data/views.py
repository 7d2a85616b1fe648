"""Multi-crop views of a micro-batch, made on the training device (arXiv 2006.09882; 2508.10104, section 3)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import attrs
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bigrun import sections
from bigrun.data.boxes import crop_boxes
from bigrun.data.dataset import Batch, Samples
from bigrun.data.distortions import BOX, DRAWS, Choices, Distortions, share_colour
from bigrun.data.draws import uniforms
from bigrun.data.images import Cut, Images, Lines
from bigrun.data.spacing import Spacing, view_spacing_mm
from bigrun.data.tone import FullRange, Tone
from bigrun.data.transfer import transfer
from bigrun.errors import UsageError

__all__ = ["ExtraView", "Views"]

Floats = npt.NDArray[np.float64]

CACHED = 250_000  # numbers of the crops that are made together, 1 MB: what the second cache of a core holds


@attrs.frozen
class ExtraView:
    """The same boxes and flips as the global crops, at another size, normalised.

    Attributes:
        factor: side of the crop as a multiple of the side of the global crops in use; the side must be whole.
        distorted: False for boxes and flips alone; True for the colours, blur and solarisation of the global crop
            too, with the blur's sigma multiplied by `factor`: the same picture at another scale.
    """

    factor: float = 1.0
    distorted: bool = False

    def size_px(self, global_size_px: int) -> int:
        """Side for global crops of a side. Raises UsageError when it is not whole."""
        side = self.factor * global_size_px
        if side < 1 or abs(side - round(side)) > 1e-6 * side:
            raise UsageError(
                f"an extra view of {self.factor:g} x {global_size_px} pixels has a side of {side:g}, expected a whole "
                "number: choose a factor that gives one for every size of the global crops"
            )
        return round(side)


@attrs.frozen(eq=False)
class Stack:
    """V*b crops of one size that are to be made, crop-major."""

    cut: Cut
    choices: Choices


class Views:
    """Turns decoded images into the crops of the objective.

    What a crop looks like is a function of (seed, epoch, index of the image, number of the view), its size of (seed,
    step): the same on any device to rounding, for any number of workers and processes, for any division of a step
    into micro-batches and in whatever company.
    """

    def __init__(
        self,
        section: sections.Views,
        channels: int,
        seed: int,
        extra: Mapping[str, ExtraView] = MappingProxyType({}),
        *,
        tone: Tone | None = None,
        spacing_mm: Spacing | None = None,
        pin_memory: bool = True,
    ) -> None:
        """
        Args:
            channels: of the crops; grey images are repeated to that many.
            tone: how stored values become [0, 1]; their whole range if not given.
            spacing_mm: the method of a data set whose pixels have a size.
            pin_memory: images go to a GPU from page-locked memory.

        Raises:
            UsageError: an extra view has a side that is not whole.
        """
        for view, (global_px, _) in itertools.product(extra.values(), section.pairs):
            view.size_px(global_px)  # raises before anything is built
        self.section = section
        self.channels = channels
        self.seed = seed
        self.extra = dict(extra)
        self.tone = tone or FullRange()
        self.spacing_mm = spacing_mm
        self.pin_memory = pin_memory
        self._constants: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def sizes_px(self, step: int) -> tuple[int, int]:
        """Sides of the global and of the local crops in an optimizer step."""
        pairs, weights = self.section.pairs, self.section.size_weights
        if len(pairs) == 1:
            return pairs[0]
        shares = np.cumsum(weights or [1.0] * len(pairs))
        (draw,) = uniforms(self.seed, "resolution", step, count=1)
        return pairs[int(np.searchsorted(shares[:-1], draw * shares[-1], side="right"))]

    @torch.no_grad()
    def __call__(self, samples: Samples, device: torch.device, step: int) -> Batch:
        """Crops of b images for an optimizer step. Raises DataError for an image with neither 1 nor `channels`
        channels."""
        with torch.autocast(device.type, enabled=False):
            images = Images(samples, self.channels, device, pin_memory=self.pin_memory)
            draws, lines = self._draws(samples), self._lines(samples)
            stacks = self._stacks(images, draws, lines, *self.sizes_px(step))
            pivots = None
            if self.section.share_colour and self.section.colour_probability > 0:
                brightness = stacks[0].choices.brightness[: len(samples)]
                pivots = images.mean_luma(brightness, lines.gain[0], None if lines.shift is None else lines.shift[0])
            crops, spacing = self._make(stacks, device, len(samples), pivots, self._spacing_mm(samples, stacks))
        extra = dict(zip(self.extra, crops[1:], strict=False))
        local_crops = crops[-1] if self.section.local_crops else None
        batch = Batch(crops[0], local_crops, extra, samples.indices, samples.epochs)
        if spacing:
            near, far = spacing[0], spacing[-1] if self.section.local_crops else None
            batch = attrs.evolve(batch, global_spacing_mm=near, local_spacing_mm=far)
        return batch

    def _lines(self, samples: Samples) -> Lines:
        """Of all views (G+S, b)."""
        count = self.section.global_crops + self.section.local_crops
        return Lines(*self.tone.affine(samples, np.arange(count), self.seed))

    def _spacing_mm(self, samples: Samples, stacks: list[Stack]) -> list[Floats]:
        """Of the global and, where there are any, of the local crops, (V*b, 3); nothing where pixels have no size."""
        known = None if self.spacing_mm is None else self.spacing_mm(samples.indices.numpy())
        if known is None:
            return []
        cuts = [stacks[0].cut, stacks[-1].cut] if self.section.local_crops else [stacks[0].cut]
        return [view_spacing_mm(known, cut.boxes, cut.size_px) for cut in cuts]

    def _draws(self, samples: Samples) -> Floats:
        """(G+S, b, DRAWS)."""
        numbers = np.arange(self.section.global_crops + self.section.local_crops)[:, None]
        draws = uniforms(self.seed, "views", samples.epochs.numpy(), samples.indices.numpy(), numbers, count=DRAWS)
        return share_colour(draws) if self.section.share_colour else draws

    def _stacks(self, images: Images, draws: Floats, lines: Lines, global_px: int, local_px: int) -> list[Stack]:
        """Global crops, extra views, and local crops if there are any."""
        section, count = self.section, self.section.global_crops
        first, others, rest = section.blur_probability
        blur = [first] + [others] * (count - 1) + [rest] * section.local_crops
        solarise = [0.0] * len(blur)
        solarise[1] = section.solarise_probability

        near, far = draws[:count], draws[count:]
        close, distant = lines[:count], lines[count:]
        boxes = crop_boxes(near[..., BOX], images.sizes, section.global_scale, section.aspect_ratio)
        choices = Choices.of(section, near, blur[:count], solarise[:count])
        stacks = [Stack(Cut(images, boxes, global_px, close), choices)]
        for view in self.extra.values():
            changed = choices.at_scale(view.factor) if view.distorted else choices.only_flips()
            stacks.append(Stack(Cut(images, boxes, view.size_px(global_px), close), changed))
        if section.local_crops:
            boxes = crop_boxes(far[..., BOX], images.sizes, section.local_scale, section.aspect_ratio)
            choices = Choices.of(section, far, blur[count:], solarise[count:])
            stacks.append(Stack(Cut(images, boxes, local_px, distant), choices))
        return stacks

    def _make(
        self, stacks: list[Stack], device: torch.device, images: int, pivots: Tensor | None, spacing: Sequence[Floats]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The crops (V*b, C, s, s) of each stack, normalised, and `spacing`, as it is, on the device.

        pivots: (b,), mean luma of the images.
        """
        crops = [stack.cut.crops() for stack in stacks]
        groups = [(k, rows) for k, out in enumerate(crops) for rows in row_groups(out, images)]
        choices = [stacks[k].choices[rows] for k, rows in groups]
        cuts = [stack.cut.arrays() for stack in stacks]
        sent = transfer([*spacing, *itertools.chain(*cuts), *(array for c in choices for array in c.arrays())], device)
        there = [next(sent)[0] for _ in spacing]
        parts = [[next(sent) for _ in arrays] for arrays in cuts]
        factor, shift = self._normalisation(device)
        for (k, rows), chosen in zip(groups, choices, strict=True):
            part = crops[k][rows]
            if device.type == "cpu":
                stacks[k].cut.fill_rows(part, rows)
            else:
                stacks[k].cut.fill(part, parts[k])
            pivot = None if pivots is None else pivots.repeat(len(crops[k]) // images)[rows]
            Distortions.of(chosen, sent).apply(part, pivot)
            part.mul_(factor).add_(shift)
        return crops, there

    def _normalisation(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """1 / std and -mean / std, (C, 1, 1), copied to the device once."""
        if device not in self._constants:
            mean, std = (np.array(v, dtype=np.float64)[:, None, None] for v in (self.section.mean, self.section.std))
            both = torch.from_numpy(np.stack([1 / std, -mean / std])).to(device, torch.float32)
            self._constants[device] = (both[0], both[1])
        return self._constants[device]


def row_groups(crops: Tensor, images: int) -> list[slice]:
    """Rows of V*b crops, crop-major, that are made together: all of them, but on a CPU what its caches hold.

    These are crops of one image, so that no crop's numbers depend on the other images of the micro-batch.
    """
    rows = len(crops)
    if crops.device.type != "cpu":
        return [slice(0, rows)]
    step = images * max(CACHED * torch.get_num_threads() // crops[0].numel(), 1)
    return [slice(i + start, min(start + step, rows), images) for i in range(images) for start in range(0, rows, step)]
