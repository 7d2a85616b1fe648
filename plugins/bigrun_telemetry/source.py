"""One source of telemetry, which may go away and come back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Literal

import attrs

from bigrun.events import Event
from bigrun_telemetry.bounded import Bounded
from bigrun_telemetry.reader import Missing, Reader, Unavailable
from bigrun_telemetry.sample import Sample

__all__ = ["FIRST_SECONDS", "LONGEST_SECONDS", "READ_SECONDS", "Source"]

READ_SECONDS = 5.0
"""A driver answers in milliseconds; one whose GPU has fallen off the bus may not answer at all."""
FIRST_SECONDS, LONGEST_SECONDS = 10.0, 600.0
"""A source that was lost is asked again after 10 s, 20 s, 40 s, at last every ten minutes. One that comes and goes does
not begin with 10 s again before it has answered for ten minutes, so that it is a few events an hour."""


@attrs.frozen
class Loss:
    """Since when a source gives no answer, and when it is asked again; None: never."""

    since: float
    next_try: float | None


class Source:
    """Opens and reads one source, within a time limit; whatever happens, the answer is a sample."""

    def __init__(
        self, name: str, open_reader: Callable[[], Reader], say: Callable[[Event], None], clock: Callable[[], float]
    ) -> None:
        self.name = name
        self._open_reader, self._say, self._clock = open_reader, say, clock
        self._call = Bounded(f"telemetry-{name}", READ_SECONDS)
        self._reader: Reader | None = None
        self._loss: Loss | None = None
        self._wait_seconds = FIRST_SECONDS
        self._back_at = clock()

    @property
    def is_there(self) -> bool:
        """Whether it gives answers."""
        return self._loss is None

    def open(self) -> str | None:
        """Why it cannot be read, at the start; None if it can."""
        try:
            self._call.call(self._opened)
        except Exception as error:  # of a library, which may raise anything
            self._lose(error)
            return reason(error)
        return None

    def read(self) -> Sample:
        """What it knows; nothing while it is lost. Its loss and its return are said once."""
        loss, now = self._loss, self._clock()
        if loss is not None and (loss.next_try is None or now < loss.next_try):
            return Sample()
        try:
            sample = self._call.call(lambda: self._opened().read())
        except Exception as error:  # of a driver, a library or a file of the kernel: anything
            self._lose(error)
            if loss is None:
                again = "it is asked again, ever less often, at last every 10 minutes"
                message = f"telemetry reads {self.name} no longer, it failed: {reason(error)}; {again}"
                self.tell("lost", message, "warning")
            return Sample()
        if loss is not None:
            self._loss, self._back_at = None, now
            self.tell("back", f"telemetry reads {self.name} again, after {now - loss.since:.0f} s", "info")
        elif now - self._back_at >= LONGEST_SECONDS:
            self._wait_seconds = FIRST_SECONDS
        return sample

    def _opened(self) -> Reader:
        if self._reader is None:
            self._reader = self._open_reader()
        return self._reader

    def _lose(self, error: Exception) -> None:
        """Ask no more for a while, then open it again."""
        now = self._clock()
        since = now if self._loss is None else self._loss.since
        self._loss = Loss(since, None if isinstance(error, Missing) else now + self._wait_seconds)
        self._wait_seconds = min(2 * self._wait_seconds, LONGEST_SECONDS)
        self.close()

    def tell(self, state: Literal["missing", "lost", "back"], message: str, level: Literal["info", "warning"]) -> None:
        """Say what has become of it."""
        self._say(Event("telemetry-source", message, 0, level, {"source": self.name, "state": state}))

    def close(self) -> None:
        """Release what it holds; not while its library is at work. One that does not even close changes nothing."""
        reader = self._reader
        if reader is None or self._call.is_busy:
            return
        self._reader = None
        with contextlib.suppress(Exception):
            self._call.call(reader.close)


def reason(error: Exception) -> str:
    return str(error) if isinstance(error, Unavailable) else f"{type(error).__name__}: {error}"
