"""The decoded images of a micro-batch, ready to be cut."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bigrun.data.augment import luma
from bigrun.data.dataset import Samples, require_channels
from bigrun.data.resample import Taps, resize, resize_all, tap_counts

__all__ = ["Cut", "Images", "Lines"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

LARGEST = 2**25  # numbers, 128 MiB: of images that are cut together, padded to one size


class Images:
    """b images on the device.

    Attributes:
        images: (C or 1, H, W) each, as decoded.
        sizes: (b, 2), height and width.
    """

    def __init__(self, samples: Samples, channels: int, device: torch.device, *, pin_memory: bool = True) -> None:
        """`channels`: of the crops; grey images are repeated to that many.

        Raises:
            DataError: an image has neither 1 nor `channels` channels.
        """
        for image, index in zip(samples.images, samples.indices.tolist(), strict=True):
            require_channels(image, channels, f"image {index} of the data set")
        self.channels = channels
        self.device = device
        self.images = samples.to(device, pin_memory=pin_memory).images
        self.sizes = np.array([image.shape[1:] for image in self.images])
        self._padded: list[tuple[slice, Tensor]] = []

    def padded(self) -> list[tuple[slice, Tensor]]:
        """All images as few stacks (k, C, H, W) of stored values, each with its images' numbers.

        Images are filled up with anything to the size of the largest of their stack.
        """
        if not self._padded:
            for some in chunks(self.sizes, LARGEST // self.channels):
                height, width = self.sizes[some].max(axis=0).tolist()
                images = self.images[some]
                stack = torch.empty(len(images), self.channels, height, width, device=self.device)
                for place, image in zip(stack, images, strict=True):
                    place[:, : image.shape[1], : image.shape[2]].copy_(image)
                self._padded.append((some, stack))
        return self._padded

    def mean_luma(self, brightness: Floats, gain: Floats, shift: Floats | None) -> Tensor:
        """Mean luma (b,) of the whole RGB or grey images in a tone, each then multiplied by its brightness and clamped.

        brightness, gain and shift: (b,).
        """
        shifts = np.zeros(len(gain)) if shift is None else shift * brightness
        # clip(x, 0, 1) * brightness is clip(x * brightness, 0, brightness); without a shift no x is above 1.
        most = np.ones(len(gain)) if shift is None else np.minimum(brightness, 1)
        means = [
            image.to(torch.float32, copy=True).mul_(a).add_(b).clamp_(0, c).mean(dim=(1, 2)).expand(3)
            for image, a, b, c in zip(
                self.images, (gain * brightness).tolist(), shifts.tolist(), most.tolist(), strict=True
            )
        ]
        return luma(torch.stack(means)[..., None, None]).flatten()


@attrs.frozen(eq=False)
class Lines:
    """How the stored values of V views of b images become [0, 1]: clip(v * gain + shift, 0, 1)."""

    gain: Floats  # (V, b)
    shift: Floats | None  # (V, b)

    def __getitem__(self, views: slice) -> Lines:
        return Lines(self.gain[views], None if self.shift is None else self.shift[views])

    def arrays(self) -> list[Floats]:
        """What a device needs of them."""
        return [self.gain] if self.shift is None else [self.gain, self.shift]


class Cut:
    """V boxes of each of b images, (V, b, 4), that are to be resampled to crops of one size, crop-major."""

    def __init__(self, images: Images, boxes: Ints, size_px: int, lines: Lines) -> None:
        self.images = images
        self.boxes = boxes
        self.size_px = size_px
        self.lines = lines
        self._counts = tap_counts(boxes[..., 2:], size_px)  # (V, b, 2)

    def crops(self) -> Tensor:
        """Place for them, (V*b, C, s, s)."""
        count, size = self.boxes[..., 0].size, self.size_px
        return torch.empty(count, self.images.channels, size, size, device=self.images.device)

    def arrays(self) -> list[npt.NDArray[Any]]:
        """What `fill` needs on the device."""
        return [self.boxes, *self.lines.arrays()]

    def fill(self, crops: Tensor, sent: Sequence[tuple[Tensor, Tensor]]) -> None:
        """All crops (V*b, C, s, s) in [0, 1], in few operations; `sent`: the arrays on the device, fp32 and int64."""
        boxes, gain = sent[0][1], sent[1][0]
        places = crops.view(*boxes.shape[:2], *crops.shape[1:])
        for some, stack in self.images.padded():
            tall, wide = self._counts[:, some].max(axis=(0, 1)).tolist()
            resized = resize_all(stack, boxes[:, some], gain[:, some], self.size_px, (tall, wide))
            if self.lines.shift is not None:
                resized.add_(sent[2][0][:, some, None, None, None])
            torch.clamp(resized, 0, 1, out=places[:, some])  # a bicubic kernel overshoots at edges

    def fill_rows(self, crops: Tensor, rows: slice) -> None:
        """These of the crops, one by one: each stays in the cache of a CPU."""
        images, counts, (tall, wide) = self.images.images, self._counts.reshape(-1, 2).tolist(), self._taps
        boxes = self.boxes.reshape(-1, 4).tolist()
        shifts = None if self.lines.shift is None else self.lines.shift.ravel().tolist()
        for crop, i in zip(crops, range(len(boxes))[rows], strict=True):
            top, left, height, width = boxes[i]
            pixels = images[i % len(images)][:, top : top + height, left : left + width]
            resized = resize(pixels, tall.of_side(i, counts[i][0]), wide.of_side(i, counts[i][1]))
            if shifts is not None:
                resized = resized.add_(shifts[i])
            torch.clamp(resized.expand(crop.shape), 0, 1, out=crop)

    @cached_property
    def _taps(self) -> tuple[Taps, Taps]:
        """Of all rows and columns; the rows multiply by the gain."""
        lengths = torch.from_numpy(self.boxes[..., 2:].reshape(-1, 2))
        tall, wide = self._counts.max(axis=(0, 1)).tolist()
        rows, columns = Taps.of(lengths[:, 0], self.size_px, tall), Taps.of(lengths[:, 1], self.size_px, wide)
        rows.weights.mul_(torch.from_numpy(self.lines.gain.ravel()).float()[:, None, None])
        return rows, columns


def chunks(sizes: Ints, largest: int) -> list[slice]:
    """Images (b, 2) that follow each other, so many that their stack has at most `largest` pixels, or one."""
    starts, height, width = [0], 0, 0
    for i, (tall, wide) in enumerate(sizes.tolist()):
        height, width = max(height, tall), max(width, wide)
        if i > starts[-1] and (i + 1 - starts[-1]) * height * width > largest:
            starts.append(i)
            height, width = tall, wide
    return [slice(start, stop) for start, stop in zip(starts, [*starts[1:], len(sizes)], strict=True)]
