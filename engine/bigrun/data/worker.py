"""One process that decodes: what it does, and how the main process sees it."""

from __future__ import annotations

import os
import signal
import time
import traceback
from contextlib import suppress
from multiprocessing import connection, reduction
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import numpy.typing as npt
import torch

from bigrun.children import begin_child, fork_server
from bigrun.data.dataset import Layout, Samples
from bigrun.data.decoder import Decoder
from bigrun.data.faults import Fault
from bigrun.data.formats.opening import is_of_machine
from bigrun.data.shared import map_buffer, new_buffer
from bigrun.errors import DataError
from bigrun.shortage import too_many_files

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

__all__ = ["Worker", "WorkerLostError"]

TICK_SECONDS = 1.0
START_SECONDS = 60.0  # that it has at least before its first image: it imports modules and unpickles the data set
END_SECONDS = 5.0
Ints = npt.NDArray[np.int64]


class WorkerLostError(Exception):
    """A process that decodes has ended, or does not move."""

    def __init__(self, cause: str, message: str, number: int | None) -> None:
        """
        Args:
            cause: `killed-by-SIGKILL` for example, `exit-1`, `stuck`, `failed`.
            message: what has happened to it.
            number: of the image that it was decoding; None if it had not begun.
        """
        super().__init__(message)
        self.cause = cause
        self.message = message
        self.number = number


@attrs.frozen(eq=False)
class Packet:
    """What is sent of a micro-batch: all but its pixels, whose file descriptor follows."""

    layout: Layout
    indices: Ints
    epochs: Ints
    faults: tuple[Fault, ...]
    bytes: int


class Worker:
    """A process that decodes, seen from the main process: asked for positions, it gives micro-batches in that order."""

    def __init__(self, decoder: Decoder, alive: Connection) -> None:
        """Start it.

        Args:
            alive: whose other end the main process keeps: when that is closed, the worker ends.

        Raises:
            OSError, EOFError: the server that starts processes is gone.
            Exception: the data set cannot be pickled.
        """
        context = fork_server()
        self.connection, theirs = context.Pipe(duplex=True)
        self.progress: Any = context.RawArray("q", [0, -1])  # images begun, and the number of the last of them
        arguments = (decoder, theirs, alive, self.progress)
        self.process = context.Process(target=work, args=arguments, daemon=True)
        try:
            self.process.start()
        except BaseException:
            self.connection.close()
            raise
        finally:
            theirs.close()

    def ask(self, position: int) -> None:
        """Ask for a micro-batch. One that has ended is not told: that shows when its answer is due."""
        with suppress(OSError):
            self.connection.send(position)

    def take(self, patience_seconds: float) -> Samples:
        """Wait for the next micro-batch that was asked for.

        Args:
            patience_seconds: so long may one image take.

        Raises:
            DataError: from the worker; or this process may open no more files.
            WorkerLostError: it has ended, has failed or does not move.
        """
        moved, since = self.progress[0], time.monotonic()
        tick = min(TICK_SECONDS, patience_seconds / 10)
        while not connection.wait([self.connection, self.process.sentinel], timeout=tick):
            if self.progress[0] != moved:
                moved, since = self.progress[0], time.monotonic()
                continue
            limit = patience_seconds if moved else max(patience_seconds, START_SECONDS)
            if time.monotonic() - since > limit:
                raise self._lost("stuck", f"has not moved for {limit:g} s")
        try:
            answer = self.connection.recv()
            if isinstance(answer, Packet):
                return self._receive(answer)
        except (EOFError, OSError):
            raise self._ended() from None
        if isinstance(answer, DataError):
            raise answer
        raise self._lost("failed", f"has failed: {answer}")

    def _receive(self, packet: Packet) -> Samples:
        try:
            descriptor = reduction.recv_handle(self.connection)
            try:
                pixels = map_buffer(descriptor, packet.bytes)
            finally:
                os.close(descriptor)
        except (RuntimeError, OSError) as error:  # RuntimeError: it came without its descriptor, or cannot be mapped
            if isinstance(error, OSError) and not is_of_machine(error):
                raise
            raise DataError(f"images cannot be taken from the process that decodes them: {too_many_files()}") from error
        indices, epochs = torch.from_numpy(packet.indices), torch.from_numpy(packet.epochs)
        return Samples(pixels, packet.layout, indices, epochs, packet.faults)

    def _ended(self) -> WorkerLostError:
        self.process.join(END_SECONDS)
        code = self.process.exitcode
        if code is None:
            return self._lost("failed", "has closed its connection")
        if code >= 0:
            return self._lost(f"exit-{code}", f"has ended with exit code {code}")
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return self._lost(f"killed-by-{name}", f"was killed by {name}")

    def _lost(self, cause: str, message: str) -> WorkerLostError:
        number = int(self.progress[1])
        return WorkerLostError(cause, message, number if number >= 0 else None)

    def kill(self) -> None:
        """End it, whatever it does; it has nothing to put in order."""
        self.connection.close()
        self.process.kill()

    def join(self) -> None:
        """Wait for its end; one that waits for a disk that is gone cannot even be killed, and is left."""
        self.process.join(END_SECONDS)


def work(decoder: Decoder, main: Connection, alive: Connection, progress: Any) -> None:
    """What the process does: answer every position with its micro-batch, in shared memory."""
    begin_child(alive)
    torch.set_num_threads(1)

    def begin(number: int) -> None:
        progress[1] = number
        progress[0] += 1

    with suppress(EOFError, OSError):  # the main process has ended, or has closed its end
        while True:
            position = main.recv()
            try:
                answer, descriptor = decoded(decoder, position, begin)
            except DataError as error:
                main.send(DataError(str(error)))
            except Exception as error:  # its own failure: the main process starts it anew
                traceback.print_exc()
                main.send(f"{type(error).__name__}: {error}")
            else:
                main.send(answer)
                reduction.send_handle(main, descriptor, None)
                os.close(descriptor)


def decoded(decoder: Decoder, position: int, begin: Any) -> tuple[Packet, int]:
    """A micro-batch, packed into a buffer of its own, of which the descriptor is returned."""
    batch = decoder(position, begin)
    descriptors: list[int] = []

    def allocate(size: int) -> torch.Tensor:
        descriptor, buffer = new_buffer(size)
        descriptors.append(descriptor)
        return buffer

    samples = Samples.pack(batch.images, torch.from_numpy(batch.indices), torch.from_numpy(batch.epochs), allocate)
    packet = Packet(samples.layout, batch.indices, batch.epochs, batch.faults, len(samples.pixels))
    return packet, descriptors[0]
