"""The decoded images of a micro-batch, ready to be cut."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bigrun.data.augment import luma
from bigrun.data.dataset import Samples, require_channels
from bigrun.data.resample import Taps, resize, resize_all, tap_counts

__all__ = ["Cut", "Images"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

HIGHEST = {torch.uint8: 255.0, torch.uint16: 65535.0, torch.float32: 1.0}
LARGEST = 2**25  # numbers, 128 MiB: of images that are cut together, padded to one size


class Images:
    """b images on the device.

    Attributes:
        images: (C or 1, H, W) each, as decoded.
        gains: (b,), bring them to [0, 1].
        sizes: (b, 2), height and width.
    """

    def __init__(self, samples: Samples, channels: int, device: torch.device) -> None:
        """`channels`: of the crops; grey images are repeated to that many.

        Raises:
            DataError: an image has neither 1 nor `channels` channels.
        """
        for image, index in zip(samples.images, samples.indices.tolist(), strict=True):
            require_channels(image, channels, f"image {index} of the data set")
        self.channels = channels
        self.device = device
        self.images = samples.to(device).images
        self.gains = np.array([1 / HIGHEST[dtype] for dtype, _ in samples.layout])
        self.sizes = np.array([image.shape[1:] for image in self.images])
        self._padded: list[tuple[slice, Tensor]] = []

    def padded(self) -> list[tuple[slice, Tensor]]:
        """All images as few stacks (k, C, H, W) in [0, 1], each with its images' numbers.

        Images are filled up with anything to the size of the largest of their stack.
        """
        if not self._padded:
            for some in chunks(self.sizes, LARGEST // self.channels):
                height, width = self.sizes[some].max(axis=0).tolist()
                images = self.images[some]
                stack = torch.empty(len(images), self.channels, height, width, device=self.device)
                for place, image, gain in zip(stack, images, self.gains[some].tolist(), strict=True):
                    place[:, : image.shape[1], : image.shape[2]].copy_(image).mul_(gain)
                self._padded.append((some, stack))
        return self._padded

    def mean_luma(self, brightness: Floats) -> Tensor:
        """Mean luma (b,) of the whole RGB or grey images, each first multiplied by its brightness and clamped."""
        factors = (self.gains * brightness).tolist()
        means = [
            image.to(torch.float32, copy=True).mul_(factor).clamp_(max=1).mean(dim=(1, 2)).expand(3)
            for image, factor in zip(self.images, factors, strict=True)
        ]
        return luma(torch.stack(means)[..., None, None]).flatten()


class Cut:
    """V boxes of each of b images, (V, b, 4), that are to be resampled to crops of one size, crop-major."""

    def __init__(self, images: Images, boxes: Ints, size_px: int) -> None:
        self.images = images
        self.boxes = boxes
        self.size_px = size_px
        self._counts = tap_counts(boxes[..., 2:], size_px)  # (V, b, 2)

    def crops(self) -> Tensor:
        """Place for them, (V*b, C, s, s)."""
        count, size = self.boxes[..., 0].size, self.size_px
        return torch.empty(count, self.images.channels, size, size, device=self.images.device)

    def fill(self, crops: Tensor, boxes: Tensor) -> None:
        """All crops (V*b, C, s, s) in [0, 1], in few operations; `boxes` are on the device."""
        places = crops.view(*boxes.shape[:2], *crops.shape[1:])
        for some, stack in self.images.padded():
            tall, wide = self._counts[:, some].max(axis=(0, 1)).tolist()
            resized = resize_all(stack, boxes[:, some], self.size_px, (tall, wide))
            torch.clamp(resized, 0, 1, out=places[:, some])  # a bicubic kernel overshoots at edges

    def fill_rows(self, crops: Tensor, rows: slice) -> None:
        """These of the crops, one by one: each stays in the cache of a CPU."""
        images, counts, (tall, wide) = self.images.images, self._counts.reshape(-1, 2).tolist(), self._taps
        boxes = self.boxes.reshape(-1, 4).tolist()
        for crop, i in zip(crops, range(len(boxes))[rows], strict=True):
            top, left, height, width = boxes[i]
            pixels = images[i % len(images)][:, top : top + height, left : left + width]
            resized = resize(pixels, tall.of_side(i, counts[i][0]), wide.of_side(i, counts[i][1]))
            torch.clamp(resized.expand(crop.shape), 0, 1, out=crop)

    @cached_property
    def _taps(self) -> tuple[Taps, Taps]:
        """Of all rows and columns; the rows bring the pixels to [0, 1]."""
        lengths = torch.from_numpy(self.boxes[..., 2:].reshape(-1, 2))
        tall, wide = self._counts.max(axis=(0, 1)).tolist()
        rows, columns = Taps.of(lengths[:, 0], self.size_px, tall), Taps.of(lengths[:, 1], self.size_px, wide)
        gains = torch.from_numpy(np.tile(self.images.gains, len(self.boxes)))
        rows.weights.mul_(gains.float()[:, None, None])
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
