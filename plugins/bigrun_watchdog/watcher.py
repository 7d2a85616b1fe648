"""The thread that looks whether a run moves."""

from __future__ import annotations

import threading
from collections.abc import Callable

from bigrun_watchdog.outside import Outside
from bigrun_watchdog.sentinel import Patience

__all__ = ["State", "Watcher"]

State = tuple[int, str]
"""The step being taken, and what the run does in it: `run.activity`."""


class Watcher(threading.Thread):
    """Looks at every tick; calls `alarm` when a state lasts longer than its limit."""

    def __init__(
        self,
        look: Callable[[], State],
        limit_of: Callable[[State], float | None],
        alarm: Callable[[State, float, float], None],
        outside: Outside,
        tick_seconds: float,
        counts: Callable[[State, float, float | None], bool] = lambda state, seconds, limit: True,
    ) -> None:
        """
        Args:
            counts: called in this thread at every tick, with the state, its seconds and its limit; whether a state that
                is beyond its limit is one to call `alarm` for.
            limit_of: seconds that a state may last; None: as long as it likes.
            alarm: called in this thread with the state, its seconds and its limit; when it returns the run has moved,
                or has ended.
        """
        super().__init__(name="watchdog", daemon=True)
        self._look, self._limit_of, self._alarm = look, limit_of, alarm
        self._outside = outside
        self._counts = counts
        self._tick_seconds = tick_seconds
        self._ended = threading.Event()

    def run(self) -> None:
        patience, seen = Patience(self._tick_seconds), self._look()
        while not self._ended.wait(self._tick_seconds):
            state = self._look()
            seconds = patience.tick(moved=state != seen)
            seen, limit = state, self._limit_of(state)
            self._outside.beat()
            if self._counts(state, seconds, limit) and limit is not None and seconds > limit:
                self._alarm(state, seconds, limit)
                seen = self._look()
                patience.tick(moved=True)

    def moves_within(self, seconds: float, state: State) -> bool:
        """Wait so long for another state; also true when the watch has ended meanwhile."""
        patience = Patience(self._tick_seconds)
        while patience.seconds < seconds:
            if self._ended.wait(min(self._tick_seconds, seconds)) or self._look() != state:
                return True
            self._outside.beat()
            patience.tick(moved=False)
        return False

    def end(self) -> None:
        """End the watch; returns when nothing is written any more."""
        self._ended.set()
        self.join()
