"""Multi-crop views of a micro-batch, made on the training device (arXiv 2006.09882; 2508.10104, section 3)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import attrs
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from bigrun import sections
from bigrun.data import augment
from bigrun.data.boxes import BOX_DRAWS, crop_boxes, spread
from bigrun.data.dataset import Batch, Samples, require_channels
from bigrun.data.draws import uniforms

__all__ = ["ExtraView", "Views"]

# Each number a crop draws has its place, so that switching one distortion off leaves the others as they were.
BOX = slice(0, BOX_DRAWS)
FLIP, COLOUR, BRIGHTNESS, CONTRAST, SATURATION, HUE, GRAYSCALE, BLUR, SIGMA, SOLARISE = range(BOX_DRAWS, BOX_DRAWS + 10)
DRAWS = BOX_DRAWS + 10

HIGHEST = {torch.uint8: 255.0, torch.uint16: 65535.0, torch.float32: 1.0}

Floats = npt.NDArray[np.float64]


@attrs.frozen
class ExtraView:
    """The boxes and flips of the global crops at another size, without any other distortion."""

    size_px: int


class Views:
    """Turns decoded images into the crops of the objective.

    What a crop looks like is a function of (seed, epoch, index of the image, number of the view): the same on any
    device, for any number of workers and in whatever company.
    """

    def __init__(
        self,
        section: sections.Views,
        channels: int,
        seed: int,
        extra: Mapping[str, ExtraView] = MappingProxyType({}),
    ) -> None:
        """`channels`: of the crops; grey images are repeated to that many."""
        self.section = section
        self.channels = channels
        self.seed = seed
        self.extra = dict(extra)

    @torch.no_grad()
    def __call__(self, samples: Samples, device: torch.device) -> Batch:
        """Crops of b images. Raises DataError when an image has neither 1 nor `channels` channels."""
        section, epochs, indices = self.section, samples.epochs.numpy(), samples.indices.numpy()
        numbers = np.arange(section.global_crops + section.local_crops)[:, None]
        draws = uniforms(self.seed, "views", epochs, indices, numbers, count=DRAWS)  # (G+S, b, DRAWS)
        near, far = draws[: section.global_crops], draws[section.global_crops :]
        with torch.autocast(device.type, enabled=False):
            images = Images(samples, self.channels, device)
            boxes = images.boxes(near, section.global_scale, section.aspect_ratio)
            extra = {
                name: self._normalise(self._flip(images.cut(boxes, view.size_px), near))
                for name, view in self.extra.items()
            }
            global_crops = self._distort(images.cut(boxes, section.global_size_px), near, *self._global_odds())
            local_crops = None
            if section.local_crops:
                boxes = images.boxes(far, section.local_scale, section.aspect_ratio)
                crops = images.cut(boxes, section.local_size_px)
                local_crops = self._distort(crops, far, [section.blur_probability[2]] * section.local_crops)
        return Batch(global_crops, local_crops, extra, samples.indices, samples.epochs)

    def _global_odds(self) -> tuple[list[float], list[float]]:
        """Probability of blur and of solarisation of each global crop."""
        first, others, _ = self.section.blur_probability
        count = self.section.global_crops
        return [first] + [others] * (count - 1), [0.0, self.section.solarise_probability] + [0.0] * (count - 2)

    def _distort(self, crops: Tensor, draws: Floats, blur: Sequence[float], solarise: Sequence[float] = ()) -> Tensor:
        """Flip, colour, blur, solarise and normalise in place. crops (V*b, C, s, s), draws (V, b, DRAWS)."""
        section = self.section
        strengths = [
            spread(draws[..., BRIGHTNESS], 1 - section.brightness, 1 + section.brightness),
            spread(draws[..., CONTRAST], 1 - section.contrast, 1 + section.contrast),
            spread(draws[..., SATURATION], 1 - section.saturation, 1 + section.saturation),
            spread(draws[..., HUE], -section.hue, section.hue),
        ]
        self._flip(crops, draws)
        apply(augment.jitter_colour, crops, draws[..., COLOUR] < section.colour_probability, *strengths)
        apply(augment.luma, crops, draws[..., GRAYSCALE] < section.grayscale_probability)
        sigma = spread(draws[..., SIGMA], *section.blur_sigma)
        apply(augment.gaussian_blur, crops, draws[..., BLUR] < np.array(blur)[:, None], sigma)
        if solarise:
            apply(augment.solarise, crops, draws[..., SOLARISE] < np.array(solarise)[:, None])
        return self._normalise(crops)

    def _flip(self, crops: Tensor, draws: Floats) -> Tensor:
        return apply(augment.flip_horizontal, crops, draws[..., FLIP] < self.section.flip_probability)

    def _normalise(self, crops: Tensor) -> Tensor:
        mean, std = (
            torch.tensor(values, device=crops.device).view(1, -1, 1, 1)
            for values in (self.section.mean, self.section.std)
        )
        return crops.sub_(mean).div_(std)


class Images:
    """The images of a micro-batch on the device, ready to be cut."""

    def __init__(self, samples: Samples, channels: int, device: torch.device) -> None:
        for image, index in zip(samples.images, samples.indices.tolist(), strict=True):
            require_channels(image, channels, f"image {index} of the data set")
        self.images = [image.float() for image in samples.to(device).images]
        self.sizes = np.array([image.shape[1:] for image in self.images])
        self.highest = torch.tensor([HIGHEST[dtype] for dtype, _ in samples.layout]).to(device)
        self.channels = channels

    def boxes(self, draws: Floats, scale: tuple[float, float], aspect: tuple[float, float]) -> npt.NDArray[np.int64]:
        """(V, b, 4)."""
        return crop_boxes(draws[..., BOX], self.sizes, scale, aspect)

    def cut(self, boxes: npt.NDArray[np.int64], size: int) -> Tensor:
        """Resize boxes (V, b, 4) of the images: (V*b, C, size, size) in [0, 1], crop-major."""
        crops = torch.cat(
            [
                F.interpolate(
                    image[None, :, top : top + height, left : left + width],
                    size=(size, size),
                    mode="bicubic",
                    antialias=True,
                ).expand(1, self.channels, size, size)
                for (top, left, height, width), image in zip(
                    boxes.reshape(-1, 4).tolist(), itertools.cycle(self.images), strict=False
                )
            ]
        )
        # A bicubic kernel overshoots at edges.
        return crops.div_(self.highest.repeat(len(boxes)).view(-1, 1, 1, 1)).clamp_(0, 1)


def apply(operation: Callable[..., Tensor], crops: Tensor, chosen: npt.NDArray[np.bool_], *strengths: Floats) -> Tensor:
    """Replace the chosen crops in place. chosen and each of the strengths are (V, b); they are chosen on the host,
    so that the device never waits for an answer."""
    rows = np.flatnonzero(chosen)
    if rows.size:
        index = torch.from_numpy(rows).to(crops.device)
        values = (torch.from_numpy(s.ravel()[rows]).float().to(crops.device) for s in strengths)
        crops[index] = operation(crops[index], *values)
    return crops
