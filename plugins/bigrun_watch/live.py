"""The dashboard on a terminal, until somebody leaves it."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from bigrun.errors import UsageError
from bigrun_watch.block import cut
from bigrun_watch.frame import frame
from bigrun_watch.keys import Keys
from bigrun_watch.parts import metric_names, plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from bigrun.record.record import RunRecord

__all__ = ["Live"]

POLL_SECONDS = 0.2
"""A terminal that was resized is drawn anew after so long."""
HELP = "q leaves; up, down, page up, page down: other metrics"


class Live:
    """Reads the run anew every so often, and draws it whenever something has changed."""

    def __init__(self, console: Console, record: RunRecord, keys: Keys, interval_seconds: float) -> None:
        self._console, self._record, self._keys = console, record, keys
        self._interval_seconds = interval_seconds
        self._skipped = 0
        self._trouble = ""

    def show(self) -> None:
        """Draw until the key to leave, or an interrupt."""
        from rich.console import Group

        with self._keys.listening(), contextlib.suppress(KeyboardInterrupt), self._console.screen():
            size, read_at = None, time.monotonic()
            while True:
                if size != self._console.size:
                    size = self._console.size
                    self._console.update_screen(Group(*self._lines()))
                pressed = self._keys.wait(POLL_SECONDS)
                if "leave" in pressed:
                    return
                for key in pressed:
                    self._move(key)
                if time.monotonic() - read_at >= self._interval_seconds:
                    self._read()
                    read_at, size = time.monotonic(), None
                elif pressed:
                    size = None

    def _read(self) -> None:
        try:
            self._record.refresh()
            self._trouble = ""
        except UsageError as error:  # the disk is gone for a while, or the folder for good: the last picture stays
            self._trouble = f"cannot be read now: {error}"

    def _move(self, key: str) -> None:
        count, page = len(metric_names(self._record)), max(self._console.size.height // 3, 1)
        steps = {"up": -1, "down": 1, "page-up": -page, "page-down": page, "home": -count}
        self._skipped = max(0, min(self._skipped + steps.get(key, 0), count - 1))

    def _lines(self) -> list[Text]:
        width, height = self._console.size
        is_unicode = self._console.encoding.startswith("utf")
        lines = frame(self._record, width, height - 1, skipped=self._skipped, is_unicode=is_unicode)
        lines += [plain("")] * (height - 1 - len(lines))
        foot = plain(self._trouble, "bold red") if self._trouble else plain(HELP, "dim")
        return [*lines, cut(foot, width)]
