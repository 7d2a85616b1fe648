"""The progress bar of a terminal: two lines, so that nothing is cut off at 80 columns."""

from __future__ import annotations

from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

__all__ = ["Bar"]


class Bar:
    """Step, bar, MFU and ETA in the first line, measurements in the second."""

    def __init__(self, stream: TextIO, step: int, max_steps: int | None) -> None:
        console = Console(file=stream)
        columns = (TextColumn("step"), MofNCompleteColumn(), BarColumn(None), TextColumn("{task.description}"))
        self._progress = Progress(*columns, console=console, expand=True)
        self._task = self._progress.add_task("", total=max_steps, completed=step)
        self._text = Text("waiting for the first step", no_wrap=True, overflow="ellipsis")
        self._live = Live(Group(self._progress, self._text), console=console)
        # Drawn at once: else rich and `print_above`, both drawing it first, leave out a line break (2 of 100 times).
        self._live.start(refresh=True)

    def move_to(self, step: int) -> None:
        self._progress.update(self._task, completed=step)

    def show(self, measured: str, rest: str) -> None:
        """Replace both texts: of the second line, and at the end of the first."""
        self._text.plain = measured
        self._progress.update(self._task, description=rest)

    def print_above(self, line: str) -> None:
        """Print a line that stays; the terminal breaks it, so that a path can be copied in one piece."""
        self._live.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def stop(self) -> None:
        """Leave the bar as it is and give the terminal back."""
        self._live.stop()
