"""The thread that looks whether a run moves."""

from __future__ import annotations

import threading
from collections.abc import Callable

from bigrun_watchdog.sentinel import Patience

__all__ = ["State", "Watcher"]

State = tuple[int, str]
"""The step being taken, and what the run does in it: `run.activity`."""


class Watcher(threading.Thread):
    """Looks at every tick; calls `alarm` when a limit is exceeded."""

    def __init__(
        self,
        look: Callable[[], State],
        limit_of: Callable[[State], float | None],
        exceeded: Callable[[State, float, float | None], float | None],
        alarm: Callable[[State, float, float], None],
        beat: Callable[[], None],
        tick_seconds: float,
    ) -> None:
        """All are called in this thread.

        Args:
            limit_of: seconds that a state may last; None: as long as it likes.
            exceeded: called at every tick, with the state, its seconds and its limit; the limit that is exceeded, None
                where none is.
            alarm: called with the state, its seconds and the exceeded limit; when it returns the run has moved, or has
                ended.
            beat: called at every tick, and at those of `moves_within`: somebody looks.
        """
        super().__init__(name="watchdog", daemon=True)
        self._look, self._limit_of, self._exceeded, self._alarm = look, limit_of, exceeded, alarm
        self._beat = beat
        self._tick_seconds = tick_seconds
        self._ended = threading.Event()

    def run(self) -> None:
        patience, seen = Patience(self._tick_seconds), self._look()
        while not self._ended.wait(self._tick_seconds):
            state = self._look()
            seconds = patience.tick(moved=state != seen)
            seen, exceeded = state, self._exceeded(state, seconds, self._limit_of(state))
            self._beat()
            if exceeded is not None:
                self._alarm(state, seconds, exceeded)
                seen = self._look()
                patience.tick(moved=True)

    def moves_within(self, seconds: float, state: State) -> bool:
        """Wait so long for another state; also true when the watch has ended meanwhile."""
        patience = Patience(self._tick_seconds)
        while patience.seconds < seconds:
            if self._ended.wait(min(self._tick_seconds, seconds)) or self._look() != state:
                return True
            self._beat()
            patience.tick(moved=False)
        return False

    def end(self) -> None:
        """End the watch; returns when nothing is written any more."""
        self._ended.set()
        self.join()
