"""A micro-batch of decoded images by its position, with another image in the place of each that cannot be used."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bigrun.data.dataset import other_channels
from bigrun.data.draws import uniforms
from bigrun.data.faults import BadImageError, Fault
from bigrun.data.formats.opening import is_of_machine
from bigrun.errors import DataError

if TYPE_CHECKING:
    from bigrun.data.dataset import Dataset
    from bigrun.data.order import Order

__all__ = ["ATTEMPTS", "REPLACED", "Decoded", "Decoder", "name_of", "usable"]

ATTEMPTS = 20
REPLACED = 2**31
"""What takes the place of an image at a position has the epoch REPLACED + position: no other sample has that, and so
none the same crops. Epochs are below 2**32 wherever something is drawn."""
DTYPES = (torch.uint8, torch.uint16, torch.float32)


@attrs.frozen(eq=False)
class Decoded:
    """A micro-batch of b images."""

    images: list[Tensor]  # (C, H, W) each
    indices: npt.NDArray[np.int64]  # (b,) of what was decoded
    epochs: npt.NDArray[np.int64]  # (b,); of a replacement REPLACED and more
    faults: tuple[Fault, ...]


class Decoder:
    """Decodes a data set's images in the run's order: what every process that decodes has.

    An image that cannot be used is replaced by the first of 20 candidates that can. They are a function of (seed,
    epoch, index), so that the sample is the same for any number of workers, prefetch and micro-batch, and after any
    resume; none is remembered. The first ones are those that the order names (`substitutes`), if it does.
    """

    def __init__(self, dataset: Dataset, order: Order, micro_batch: int, channels: int, seed: int) -> None:
        """
        Args:
            channels: of the model; images have that many, or 1.
            seed: of the run.
        """
        self.dataset = dataset
        self.order = order
        self.micro_batch = micro_batch
        self.channels = channels
        self.seed = seed

    def __call__(self, position: int, begin: Callable[[int], None] | None = None) -> Decoded:
        """The micro-batch that starts at a position.

        Args:
            begin: is told the index of every image before it is decoded.

        Raises:
            DataError: neither an image nor any of its candidates can be used.
            OSError, MemoryError: this process has run out of open files or of memory.
        """
        positions = position + np.arange(self.micro_batch)
        epochs, indices = self.order.index(positions)
        images, taken, faults = [], [], list[Fault]()
        for epoch, index in zip(epochs.tolist(), indices.tolist(), strict=True):
            met: list[Fault] = []
            for candidate in self.candidates(epoch, index):
                if begin is not None:
                    begin(candidate)
                try:
                    images.append(usable(self.dataset, candidate, self.channels))
                except DataError as error:
                    met.append(Fault.of(error, name_of(self.dataset, candidate), candidate))
                else:
                    break
            else:
                raise none_left(met)
            taken.append(candidate)
            faults += [attrs.evolve(fault, replacement=candidate) for fault in met]
        used = np.array(taken, dtype=np.int64)
        epochs = np.where(used == indices, epochs, REPLACED + positions % REPLACED)
        return Decoded(images, used, epochs, tuple(faults))

    def candidates(self, epoch: int, index: int) -> Iterator[int]:
        """The image itself, then 20 others in the order of their draws, each once; of a small data set all.

        At most half of them are those that the order names, for these may all be bad.
        """
        yield index
        draws = uniforms(self.seed, "replacement", epoch, index, count=2 * ATTEMPTS)
        others = picks(len(self.dataset), draws[:ATTEMPTS], behind=index)
        substitutes: Callable[[int], npt.NDArray[np.int64]] | None = getattr(self.order, "substitutes", None)
        if substitutes is not None:
            named = substitutes(index)
            others = [*named[picks(len(named), draws[ATTEMPTS:])[: ATTEMPTS // 2]].tolist(), *others]
        yield from itertools.islice((other for other in dict.fromkeys(others) if other != index), ATTEMPTS)


def picks(count: int, draws: npt.NDArray[np.float64], behind: int = -1) -> list[int]:
    """Numbers below `count`, each once: the drawn ones, and then as many that follow each other."""
    drawn = (draws * count).astype(np.int64).tolist()
    return list(dict.fromkeys([*drawn, *((behind + k) % count for k in range(1, len(draws) + 1))])) if count else []


def usable(dataset: Dataset, index: int, channels: int) -> Tensor:
    """A decoded image (C, H, W) that fits the model.

    Raises:
        DataError: it cannot be used.
        OSError, MemoryError: this process has run out of open files or of memory.
    """
    try:
        image = dataset[index]
    except DataError:
        raise
    except Exception as error:  # a data set of somebody else's may raise anything
        if is_of_machine(error):
            raise
        raise BadImageError(name_of(dataset, index), "other", f"{type(error).__name__}: {error}") from error
    problem = misfit(image, channels)
    if problem is not None:
        raise BadImageError(name_of(dataset, index), "unsupported", problem)
    return image


def misfit(image: Any, channels: int) -> str | None:
    """Why what a data set gave is no image for the model; to look at all values of 512 x 512 floats takes 20 us."""
    if not isinstance(image, Tensor):
        return f"its data set gave a {type(image).__name__}, expected a torch.Tensor (C, H, W)"
    if image.dtype not in DTYPES or image.dim() != 3 or not image.numel():
        expected = ", ".join(map(str, DTYPES))
        return f"its data set gave {image.dtype} of shape {tuple(image.shape)}, expected (C, H, W) of {expected}"
    if image.shape[0] not in (1, channels):
        return other_channels(image, channels)
    if image.dtype == torch.float32:
        low, high = (float(value) for value in torch.aminmax(image))
        if not 0 <= low <= high <= 1:  # NaN is not
            return f"its data set gave floats from {low:g} to {high:g}, expected [0, 1]"
    return None


def name_of(dataset: Dataset, index: int) -> str:
    """The image's name for messages."""
    describe = getattr(dataset, "describe", None)
    return describe(index) if describe else f"image {index} of the data set"


def none_left(met: list[Fault]) -> DataError:
    """For an image that has no replacement."""
    lines = [f"  {fault.message}" for fault in met]
    return DataError(
        f"no image can be used: one that is due, and all of the {len(met) - 1} that were to replace it, cannot be "
        "decoded or do not fit the model. Most of the data set is broken, or cannot be reached:\n" + "\n".join(lines)
    )
