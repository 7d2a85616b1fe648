"""Several processes that decode, as one stream; started again when one of them is lost."""

from __future__ import annotations

import atexit
import multiprocessing
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Self

import attrs

from bigrun.children import blocked
from bigrun.data.decoder import name_of
from bigrun.data.formats.opening import is_of_machine
from bigrun.data.lost import STRIKES, advice
from bigrun.data.worker import Worker, WorkerLostError
from bigrun.errors import DataError
from bigrun.shortage import describe_shortage, refuse_long_sockets

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from bigrun.data.course import Course
    from bigrun.data.dataset import Samples
    from bigrun.data.decoder import Decoder
    from bigrun.sections import Data

__all__ = ["Restart", "Workers"]


@attrs.frozen
class Restart:
    """The processes that decode were started again."""

    cause: str
    message: str
    position: int
    """Of the first micro-batch that had not been delivered, where they begin."""
    strike: int


class Team:
    """`data.workers` processes, each with `data.prefetch` micro-batches under way, from a position on."""

    def __init__(self, decoder: Decoder, data: Data, course: Course, position: int) -> None:
        """
        Raises:
            DataError: the data set cannot be sent to another process.
            WorkerLostError: processes cannot be started.
        """
        self.data = data
        self.course = course
        self.workers: list[Worker] = []
        self.asked, self.turn = position, 0
        theirs, self.alive = multiprocessing.Pipe(duplex=False)
        atexit.register(self.close)  # before multiprocessing's own, which waits for processes that do not hear it
        try:
            with theirs, blocked():
                for _ in range(data.workers):
                    self.workers.append(started(decoder, theirs))
        except BaseException:
            self.close()
            raise
        for _ in range(data.prefetch):
            for worker in self.workers:
                self._ask(worker)

    def next(self) -> Samples:
        """The next micro-batch. Raises DataError, WorkerLostError."""
        worker = self.workers[self.turn]
        samples = worker.take(self.data.worker_timeout_seconds)
        self._ask(worker)
        self.turn = (self.turn + 1) % len(self.workers)
        return samples

    def _ask(self, worker: Worker) -> None:
        worker.ask(self.asked)
        self.asked = self.course.after(self.asked)

    def close(self) -> None:
        """End all processes."""
        atexit.unregister(self.close)
        self.alive.close()
        for worker in self.workers:
            worker.kill()
        for worker in self.workers:
            worker.join()


def started(decoder: Decoder, alive: Connection) -> Worker:
    """Raises: OSError where this process may open no more files; UsageError where TMPDIR is too long for sockets."""
    try:
        return Worker(decoder, alive)
    except (OSError, EOFError) as error:
        refuse_long_sockets(error)
        if is_of_machine(error):
            raise
        raise WorkerLostError("not-started", f"cannot be started ({type(error).__name__}: {error})", None) from error
    except Exception as error:  # pickle raises anything: PicklingError, TypeError, AttributeError
        kind = type(decoder.dataset).__name__
        raise DataError(
            f"the data set, {kind}, cannot be sent to a process that decodes ({type(error).__name__}: {error}); it "
            "must be possible to pickle it, or set data.workers = 0"
        ) from error


class Workers:
    """The micro-batches of a course, for ever. The processes start at once, and end with `close()`.

    When one is lost, all are started again at the first micro-batch that was not delivered: what is delivered does not
    depend on it. Three times without as much progress as was under way, and it is no accident.
    """

    def __init__(self, decoder: Decoder, data: Data, course: Course, on_restart: Callable[[Restart], None]) -> None:
        """Raises: DataError when the data set cannot be sent to another process, or this one may open no more files."""
        self.decoder = decoder
        self.data = data
        self.course, self.position = course, course.first
        self.on_restart = on_restart
        self._strikes = 0
        self._delivered = 0
        self._team: Team | None = None
        with suppress(WorkerLostError):  # tried again when the first micro-batch is asked for
            self._team = self._begin()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Samples:
        """Raises: DataError when an image and all its replacements cannot be used, or a third process is lost."""
        while True:
            try:
                if self._team is None:
                    self._team = self._begin()
                samples = self._team.next()
            except WorkerLostError as lost:
                self.close()
                self._restart(lost)
            except BaseException:
                self.close()
                raise
            else:
                self.position = self.course.after(self.position)
                self._delivered += 1
                return samples

    def _begin(self) -> Team:
        try:
            return Team(self.decoder, self.data, self.course, self.position)
        except OSError as error:
            raise DataError(f"processes that decode cannot be started: {describe_shortage(error)}") from error

    def _restart(self, lost: WorkerLostError) -> None:
        under_way = self.data.workers * self.data.prefetch
        self._strikes = 1 if self._delivered >= under_way else self._strikes + 1
        self._delivered = 0
        text = describe(self.decoder, lost)
        if self._strikes == STRIKES:
            raise DataError(
                f"{text}, for the {STRIKES}rd time without progress\n{advice(lost.cause, self.data)}"
            ) from None
        text += f"; all are started again at position {self.position:,} (strike {self._strikes} of {STRIKES})"
        self.on_restart(Restart(lost.cause, text, self.position, self._strikes))

    def close(self) -> None:
        """End all processes."""
        team, self._team = self._team, None
        if team is not None:
            team.close()

    def __del__(self) -> None:
        self.close()


def describe(decoder: Decoder, lost: WorkerLostError) -> str:
    where = "" if lost.number is None else f" while it decoded {name_of(decoder.dataset, lost.number)}"
    return f"a process that decodes images {lost.message}{where}"
