"""What a data set is, and the values that travel from it to the objective."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

import attrs
import torch
from torch import Tensor

from bigrun.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Batch", "Dataset", "Samples", "require_channels"]

ALIGNMENT = 16  # bytes; every dtype may be viewed at a multiple of its own size


class Dataset(Protocol):
    """Decoded images by index, pickled once to each worker.

    `dataset[i]` is always the same image, in whatever process: it draws nothing at random. A data set may also
    have `describe(index) -> str`, the name of an image for error messages, and `summary() -> str`, one line for the
    header.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Tensor:
        """(C, H, W) uint8 in [0, 255], uint16 in [0, 65535] or float32 in [0, 1]. Raises DataError."""
        ...


@attrs.frozen(eq=False)
class Samples:
    """A micro-batch of b decoded images of any sizes, packed in one buffer.

    One shared-memory segment between two processes and one copy to the device, where separate images would need
    b file descriptors and b copies.
    """

    pixels: Tensor  # (bytes,) uint8
    layout: tuple[tuple[torch.dtype, tuple[int, ...]], ...]  # dtype and (C, H, W) of each image
    indices: Tensor  # (b,) int64 on the CPU
    epochs: Tensor  # (b,) int64 on the CPU

    @classmethod
    def pack(cls, images: Sequence[Tensor], indices: Tensor, epochs: Tensor) -> Samples:
        """Copy images (C, H, W) into one buffer."""
        layout = tuple((image.dtype, tuple(image.shape)) for image in images)
        samples = cls(torch.empty(sum(map(padded_bytes, layout)), dtype=torch.uint8), layout, indices, epochs)
        for place, image in zip(samples.images, images, strict=True):
            place.copy_(image)
        return samples

    @property
    def images(self) -> list[Tensor]:
        """The images (C, H, W), views of the buffer."""
        views, start = [], 0
        for dtype, shape in self.layout:
            end = start + math.prod(shape) * dtype.itemsize
            views.append(self.pixels[start:end].view(dtype).view(shape))
            start += padded_bytes((dtype, shape))
        return views

    def to(self, device: torch.device) -> Samples:
        """The same with its pixels on a device."""
        return attrs.evolve(self, pixels=self.pixels.to(device, non_blocking=True))

    def __len__(self) -> int:
        return len(self.layout)


@attrs.frozen(eq=False)
class Batch:
    """The views of one micro-batch of b images: fp32, normalised, crop-major (row = crop * b + image)."""

    global_crops: Tensor  # (G*b, C, s, s)
    local_crops: Tensor | None  # (S*b, C, t, t)
    extra: Mapping[str, Tensor]  # name -> (G*b, C, u, u)
    indices: Tensor  # (b,) int64 on the CPU
    epochs: Tensor  # (b,) int64 on the CPU

    @property
    def size(self) -> int:
        """Images b."""
        return len(self.indices)


def padded_bytes(entry: tuple[torch.dtype, tuple[int, ...]]) -> int:
    dtype, shape = entry
    return -(-math.prod(shape) * dtype.itemsize // ALIGNMENT) * ALIGNMENT


def require_channels(image: Tensor, channels: int, name: str) -> None:
    """Raises: DataError when an image (C, H, W) is neither grey nor of `channels` channels."""
    if image.shape[0] not in (1, channels):
        raise DataError(
            f"{name}: the image has {image.shape[0]} channels, expected {describe_channels(channels)} "
            f"(model.in_channels = {channels}); set model.in_channels to the data's or convert the images"
        )


def describe_channels(channels: int) -> str:
    return "1" if channels == 1 else f"{channels}, or 1 to be repeated"
