"""What a data set is, and the values that travel from it to the objective."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol, TypeAlias

import attrs
import torch
from torch import Tensor

from bigrun.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bigrun.data.faults import Fault

__all__ = ["Batch", "Dataset", "Layout", "Samples", "other_channels", "require_channels"]

ALIGNMENT = 16  # bytes; every dtype may be viewed at a multiple of its own size
Layout: TypeAlias = tuple[tuple[torch.dtype, tuple[int, ...]], ...]


class Dataset(Protocol):
    """Decoded images by index, pickled once to each worker.

    `dataset[i]` is always the same image, in whatever process: it draws nothing at random. A data set may also have

    - `describe(index) -> str`, the name of an image for error messages; `summary() -> str`, one line for the header;
    - `order(seed, effective_batch) -> Order`: which image stands at which position of the run (`bigrun.data.order`);
      without it every epoch is a permutation of all images;
    - `files`, the files that its samples are made of, or `faults` (`BadImageError`): what was known to be bad at the
      start, and counts against `data.max_bad_fraction`;
    - `spacing_mm(indices) -> (b, 3) float32`, x, y and z in mm: what a pixel covers (`bigrun.data.spacing`).
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Tensor:
        """(C, H, W) uint8 in [0, 255], uint16 in [0, 65535] or float32 in [0, 1].

        Raises:
            BadImageError: the image cannot be used, and another takes its place; so after any other exception, and for
                what is no such tensor.
        """
        ...


@attrs.frozen(eq=False)
class Samples:
    """A micro-batch of b decoded images of any sizes, packed in one buffer.

    One piece of memory that two processes share and one copy to the device, where separate images would need b file
    descriptors and b copies.
    """

    pixels: Tensor  # (bytes,) uint8
    layout: Layout  # dtype and (C, H, W) of each image
    indices: Tensor  # (b,) int64 on the CPU
    epochs: Tensor  # (b,) int64 on the CPU
    faults: tuple[Fault, ...] = ()
    """Images that could not be used. `indices` has those that took their places: what is drawn for a sample, and what a
    flight record and a replay name, is what was trained on."""

    @classmethod
    def pack(
        cls,
        images: Sequence[Tensor],
        indices: Tensor,
        epochs: Tensor,
        allocate: Callable[[int], Tensor] | None = None,
        faults: tuple[Fault, ...] = (),
    ) -> Samples:
        """Copy images (C, H, W) into one buffer: (size,) uint8, of `allocate(size)`."""
        layout = tuple((image.dtype, tuple(image.shape)) for image in images)
        size = sum(map(padded_bytes, layout))
        buffer = torch.empty(size, dtype=torch.uint8) if allocate is None else allocate(size)
        samples = cls(buffer, layout, indices, epochs, faults)
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

    def to(self, device: torch.device, *, pin_memory: bool = True) -> Samples:
        """The same with its pixels on a device.

        Args:
            pin_memory: one copy into page-locked memory, from which a GPU fetches them while this process goes on.
                Without it a GPU gets a copy in ordinary memory: what is mapped, as images of workers are, is slow to
                fetch from, and has hung on AMD's (ROCm/rocm-systems issue 10962).
        """
        if device.type != "cuda":
            return self
        pixels = self.pixels.pin_memory() if pin_memory else self.pixels.clone()
        return attrs.evolve(self, pixels=pixels.to(device, non_blocking=pin_memory))

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
    global_spacing_mm: Tensor | None = None
    """(G*b, 3) fp32: what a pixel of each global crop covers in x and y, and the distance of slices, in mm; NaN where
    an image's is not known, None where the data set knows none."""
    local_spacing_mm: Tensor | None = None
    """The same of the local crops, (S*b, 3)."""

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
        raise DataError(f"{name}: {other_channels(image, channels)}")


def other_channels(image: Tensor, channels: int) -> str:
    """What is wrong with the channels of an image (C, H, W), and what to do."""
    return (
        f"the image has {image.shape[0]} channels, expected {describe_channels(channels)} (model.in_channels = "
        f"{channels}); set model.in_channels to the data's or convert the images"
    )


def describe_channels(channels: int) -> str:
    return "1" if channels == 1 else f"{channels}, or 1 to be repeated"
