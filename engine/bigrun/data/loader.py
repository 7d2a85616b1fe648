"""The endless stream of decoded micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

import torch

from bigrun.data.course import Course
from bigrun.data.dataset import Samples
from bigrun.data.decoder import Decoder
from bigrun.data.workers import Restart, Workers
from bigrun.errors import DataError
from bigrun.shortage import describe_shortage

if TYPE_CHECKING:
    from bigrun.data.dataset import Dataset
    from bigrun.data.order import Order
    from bigrun.sections import Data

__all__ = ["Restart", "build_loader"]


def build_loader(
    dataset: Dataset,
    order: Order,
    data: Data,
    channels: int,
    start_position: int,
    *,
    seed: int = 0,
    rank: int = 0,
    processes: int = 1,
    on_restart: Callable[[Restart], None] = lambda restart: None,
) -> Workers | Generator[Samples, None, None]:
    """Micro-batches of data.micro_batch images in the order's order, for ever.

    The k-th starts at position start_position + k * micro_batch; of several processes each has its part of every step
    (`Course`). The same for any number of workers, and a stream started at a later step continues an earlier one.
    Workers start at once, decode and do nothing else, and end with the stream (`close()`). An image that cannot be used
    is replaced (`Samples.faults`); a worker that is lost is started again.

    Args:
        dataset: images by index; picklable when data.workers > 0.
        order: which image stands at which position.
        data: `micro_batch` (chosen, not None), `effective_batch`, `workers`, `prefetch` and `worker_timeout_seconds`
            are used.
        channels: of the model; images have that many or 1.
        start_position: images already consumed by all processes.
        seed: of the run: what replaces an image is drawn from it.
        rank, processes: which of how many processes this is.
        on_restart: is told of every restart of the workers.

    Raises:
        DataError: an image and all its replacements cannot be used; workers are lost again and again.
    """
    assert data.micro_batch is not None
    decoder = Decoder(dataset, order, data.micro_batch, channels, seed)
    course = Course.of(data, start_position, rank, processes)
    return Workers(decoder, data, course, on_restart) if data.workers else decoded_here(decoder, course)


def decoded_here(decoder: Decoder, course: Course) -> Generator[Samples, None, None]:
    """The same in this process, each micro-batch when it is asked for."""
    position = course.first
    while True:
        try:
            batch = decoder(position)
        except (OSError, MemoryError) as error:
            raise DataError(f"images cannot be decoded any more: {describe_shortage(error)}") from error
        indices, epochs = torch.from_numpy(batch.indices), torch.from_numpy(batch.epochs)
        yield Samples.pack(batch.images, indices, epochs, faults=batch.faults)
        position = course.after(position)
