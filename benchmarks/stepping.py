"""Several training loops alive in one process, each taking one step when it is told to.

A loop runs unmodified in a thread of its own. It is stopped where it asks for data, so a measured step reaches from
one request to the next and holds everything that the loop does once per step. Only one thread computes at a time.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from bigrun.data.dataset import Samples

__all__ = ["Seconds", "Stepper"]


@attrs.frozen
class Seconds:
    """What a step took. `cpu` is of the whole process: a plugin's own threads count."""

    wall: float
    cpu: float

    @staticmethod
    def now() -> Seconds:
        return Seconds(time.perf_counter(), time.process_time())

    def since(self, start: Seconds) -> Seconds:
        return Seconds(self.wall - start.wall, self.cpu - start.cpu)


class Stepper:
    """One loop."""

    def __init__(
        self,
        train: Callable[[Iterator[Samples]], object],
        window: Sequence[Samples],
        before_step: Callable[[int], object] = lambda step: None,
    ) -> None:
        """
        Args:
            train: the loop; it ends when its iterator does, or after the step that follows `finish`.
            window: micro-batches, delivered again and again.
            before_step: called with the number of the step, counted from 1; its time is not measured.
        """
        self._train = train
        self._window = window
        self._before_step = before_step
        self._go, self._paused = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._error: BaseException | None = None
        self._last = False
        self._started = self._stopped = Seconds(0.0, 0.0)

    def start(self) -> None:
        """Let the loop build itself, up to its first request for data."""
        self._thread.start()
        self._wait()

    def advance(self) -> Seconds:
        """Take one step."""
        self._go.release()
        self._wait()
        return self._stopped.since(self._started)

    def finish(self) -> None:
        """One more step, then the end of the loop."""
        self._last = True
        self._go.release()
        self._thread.join()
        if self._error:
            raise self._error

    def _wait(self) -> None:
        self._paused.acquire()
        if self._error:
            raise self._error

    def _work(self) -> None:
        try:
            self._train(self._batches())
        except BaseException as error:  # raised again in the thread that waits
            self._error = error
        self._paused.release()

    def _batches(self) -> Iterator[Samples]:
        for step in itertools.count(1):
            self._stopped = Seconds.now()
            self._paused.release()
            self._go.acquire()
            self._before_step(step)
            self._started = Seconds.now()
            yield self._window[step % len(self._window)]
            if self._last:
                return
