"""A micro-batch of decoded images by its position, with another image in the place of each that cannot be used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import attrs
import numpy as np
import numpy.typing as npt
from torch import Tensor

from bigrun.data.dataset import require_channels
from bigrun.data.draws import uniforms
from bigrun.data.faults import BadImageError, Fault
from bigrun.data.formats.opening import is_of_machine
from bigrun.errors import DataError

if TYPE_CHECKING:
    from bigrun.data.dataset import Dataset
    from bigrun.data.order import Order

__all__ = ["ATTEMPTS", "Decoded", "Decoder", "name_of", "usable"]

ATTEMPTS = 20


@attrs.frozen(eq=False)
class Decoded:
    """A micro-batch of b images."""

    images: list[Tensor]  # (C, H, W) each
    indices: npt.NDArray[np.int64]  # (b,) of what was decoded
    epochs: npt.NDArray[np.int64]  # (b,)
    faults: tuple[Fault, ...]


class Decoder:
    """Decodes a data set's images in the run's order: what every process that decodes has.

    An image that cannot be used is replaced by the first of 20 candidates that can. They are a function of (seed,
    epoch, index), so that the sample is the same for any number of workers, prefetch and micro-batch, and after any
    resume; none is remembered.
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
        epochs, indices = self.order.index(position + np.arange(self.micro_batch))
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
        return Decoded(images, np.array(taken, dtype=np.int64), epochs, tuple(faults))

    def candidates(self, epoch: int, index: int) -> Iterator[int]:
        """The image itself, then others in the order of their draws, each once; of a small data set all."""
        yield index
        tried, images = {index}, len(self.dataset)
        draws = uniforms(self.seed, "replacement", epoch, index, count=ATTEMPTS)
        drawn = (draws * images).astype(np.int64).tolist()
        for candidate in (*drawn, *((index + k) % images for k in range(1, ATTEMPTS + 1))):
            if candidate not in tried and len(tried) <= ATTEMPTS:
                tried.add(candidate)
                yield candidate


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
    if image.shape[0] not in (1, channels):
        name = name_of(dataset, index)
        try:
            require_channels(image, channels, name)
        except DataError as error:
            raise BadImageError(name, "unsupported", str(error).removeprefix(f"{name}: ")) from None
    return image


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
