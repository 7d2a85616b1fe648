"""The endless stream of decoded micro-batches."""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import os
import signal
import threading
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from bigrun.data.dataset import Dataset, Samples, require_channels
from bigrun.errors import DataError
from bigrun.process import STOP_SIGNALS

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkServerContext

    from bigrun.data.order import EpochOrder
    from bigrun.sections import Data

__all__ = ["blocked", "build_loader"]


def build_loader(
    dataset: Dataset, order: EpochOrder, data: Data, channels: int, start_position: int
) -> Generator[Samples, None, None]:
    """Micro-batches of data.micro_batch images in the order's order, for ever.

    The k-th starts at position start_position + k * micro_batch. The same for any number of workers, and a stream
    started at a later position continues an earlier one. Workers start at once, decode and do nothing else, and
    stop with the generator (`close()`).

    Args:
        dataset: images by index; picklable when data.workers > 0.
        order: which image stands at which position.
        data: `micro_batch` (chosen, not None), `workers` and `prefetch` are used.
        channels: of the model; images have that many or 1.
        start_position: images already consumed.

    Raises:
        DataError: from the batch that holds an image that cannot be read or has other channels.
    """
    assert data.micro_batch is not None
    theirs, ours = multiprocessing.Pipe(duplex=False)
    loader: DataLoader[Samples | DataError] = DataLoader(
        Decoder(dataset, order, data.micro_batch, channels),
        batch_size=None,
        sampler=itertools.count(start_position, data.micro_batch),
        collate_fn=unchanged,
        num_workers=data.workers,
        prefetch_factor=data.prefetch if data.workers else None,
        multiprocessing_context=worker_context() if data.workers else None,
        worker_init_fn=functools.partial(begin_worker, theirs),
        generator=torch.Generator(),  # torch seeds the workers from it instead of the global generator
    )
    return unpacked(started(loader), ours)


def unpacked(stream: Iterator[Samples | DataError], alive: Connection) -> Generator[Samples, None, None]:
    """
    Args:
        alive: this process's end of the pipe by which workers see that it lives; kept as long as they are.
    """
    try:
        for samples in stream:
            if isinstance(samples, DataError):
                raise samples
            yield samples
    except (RuntimeError, OSError, EOFError) as error:
        # What torch and multiprocessing raise when a worker was killed, by the kernel for want of memory above all.
        raise DataError(
            f"a process that decodes images died ({type(error).__name__}: {error}); "
            "the same command continues from the newest checkpoint"
        ) from error
    finally:
        del stream  # the traceback of a DataError would keep it, and its workers, alive
        alive.close()


class Decoder(torch.utils.data.Dataset[Samples | DataError]):
    """The data set by micro-batch: item p is the micro-batch that starts at position p."""

    def __init__(self, dataset: Dataset, order: EpochOrder, micro_batch: int, channels: int) -> None:
        self.dataset = dataset
        self.order = order
        self.micro_batch = micro_batch
        self.channels = channels

    def __getitem__(self, position: int) -> Samples | DataError:
        """A DataError is returned, not raised: torch would replace its message by a traceback in text."""
        epochs, indices = self.order.index(position + np.arange(self.micro_batch))
        try:
            images = [self._decode(index) for index in indices.tolist()]
        except DataError as error:
            return DataError(str(error))
        return Samples.pack(images, torch.from_numpy(indices), torch.from_numpy(epochs))

    def _decode(self, index: int) -> torch.Tensor:
        name = name_of(self.dataset, index)
        try:
            image = self.dataset[index]
        except DataError:
            raise
        except Exception as error:  # a data set of somebody else's may raise anything
            raise DataError(f"{name}: {type(error).__name__}: {error}") from error
        require_channels(image, self.channels, name)
        return image


def name_of(dataset: Dataset, index: int) -> str:
    """The image's name for error messages."""
    describe = getattr(dataset, "describe", None)
    return describe(index) if describe else f"image {index} of the data set"


def worker_context() -> ForkServerContext:
    """Workers are forked from a clean server that has imported torch, not from this process.

    A fork of a process with threads and an initialised GPU may deadlock, and Python 3.12 warns of it. A process has one
    server: where somebody else has started it before, without `blocked`, a stop signal ends it and the workers with it.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "bigrun.data.folder", __name__])
    return context


def started(loader: DataLoader[Any]) -> Iterator[Samples | DataError]:
    """Start the workers with the stop signals blocked, so that none of them dies of one before it ignores it."""
    if loader.num_workers:
        resource_tracker.ensure_running()  # up to Python 3.12 this unblocks the signals
    with blocked(STOP_SIGNALS):
        return iter(loader)


@contextmanager
def blocked(signals: tuple[signal.Signals, ...]) -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def begin_worker(main: Connection, worker: int) -> None:
    """A stop is the main process's decision: a worker that died of the same Ctrl-C would break the last step.

    But no worker outlives it. torch's workers watch their parent, which is the fork server here and lives as long as
    they do: after a kill both would stay for ever.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=end_with, args=(main,), daemon=True).start()


def end_with(main: Connection) -> None:
    """Nothing is ever sent: reading ends when the other end is closed, by whatever ended its process."""
    with suppress(EOFError, OSError):
        main.recv_bytes()
    os._exit(1)


def unchanged(samples: Any) -> Any:
    return samples
