"""bigrun watch: a run on a terminal, live."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from bigrun.finite import FiniteRange

__all__ = ["watch"]


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--once", is_flag=True, help="Print one picture and leave.")
@click.option(
    "--interval-seconds",
    type=FiniteRange(min=0.1, max=3600),
    default=2.0,
    show_default=True,
    help="Time between two readings of the run's files.",
)
def watch(run: Path, *, once: bool, interval_seconds: float) -> None:
    """Show a running or finished run on the terminal: is it well, how far is it, what happens.

    RUN is a run directory, as runs/vit_large. It is only read. Keys: q or Ctrl-C leave; up, down, page up and page down
    show other metrics. Where the output is no terminal, one picture is printed as plain lines.
    """
    from bigrun.record.record import RunRecord
    from bigrun.terminal import say
    from bigrun_watch.frame import frame

    record = RunRecord(run)
    is_terminal = sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in ("", "dumb", "unknown")
    if not is_terminal:
        is_unicode = (sys.stdout.encoding or "").lower().startswith("utf")
        for line in frame(record, None, None, is_unicode=is_unicode):
            say(line.plain.rstrip())
        return
    from rich.console import Console

    from bigrun_watch.keys import Keys
    from bigrun_watch.live import Live

    console = Console(highlight=False)
    if once:
        for line in frame(record, console.width, None, is_unicode=console.encoding.startswith("utf")):
            console.print(line, soft_wrap=True)
        return
    Live(console, record, Keys(sys.stdin), interval_seconds).show()
