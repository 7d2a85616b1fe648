"""`bigrun monitor`: look at a checkpoint while its run goes on. Imports when it runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bigrun.command_options import device_option, overridden

if TYPE_CHECKING:
    from bigrun.evaluation.monitor import Monitored

__all__ = ["monitor"]


@click.command()
@click.argument("source", metavar="CHECKPOINT|RUN", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="Where to write.  [default: monitor/<run>/step-<n>, below here]"
)
@overridden
@device_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, that of monitor.json.")
def monitor(
    source: Path,
    out: Path | None,
    as_json: bool,
    sets: tuple[str, ...],
    plugins: tuple[str, ...],
    no_plugins: tuple[str, ...],
) -> None:
    """Measure and draw what a checkpoint's networks have learned, while its run goes on.

    CHECKPOINT is a checkpoint's directory; of a run directory the newest verified one is taken. Nothing is written
    there. The plugins of its configuration take part that measure, and those that bring data and networks; more with
    --plugin. It computes on the CPU unless --device says otherwise: the GPU is the run's. There it takes half of the
    processors, and those last in line.
    """
    from bigrun.evaluation.courtesy import few_threads, last_in_line
    from bigrun.evaluation.monitor import monitor_checkpoint
    from bigrun.interruption import Interrupted, interrupting
    from bigrun.terminal import say

    has_device = any(text.partition("=")[0].strip() == "hardware.device" for text in sets)
    try:
        with interrupting(), last_in_line():
            found = monitor_checkpoint(
                source,
                out,
                sets=sets if has_device else ("hardware.device=cpu", f"hardware.threads={few_threads()}", *sets),
                plugins=plugins,
                no_plugins=no_plugins,
                say=lambda line: say(line, error=as_json),
            )
    except Interrupted as interrupted:
        say(f"interrupted by {interrupted.name}: nothing was written", error=True)
        sys.exit(interrupted.exit_code)
    for line in [json.dumps(found.facts)] if as_json else lines(found):
        say(line)
    if found.has_failed:
        from bigrun.errors import ExitCode

        sys.exit(int(ExitCode.QUARANTINED))


def lines(found: Monitored) -> Iterator[str]:
    """The measurements, the files, and who failed."""
    from bigrun.listing import table

    measured: dict[str, Any] = dict(found.facts["measurements"])
    rows = ((name, value if isinstance(value, str) else f"{value:.6g}") for name, value in sorted(measured.items()))
    if measured:
        yield from table(("measurement", "value"), rows).splitlines()
    yield from (f"written      {found.folder / name}" for name in found.facts["files"])
    for failure in found.facts["failures"]:
        yield f"failed       {failure['plugin']} in {failure['hook']}: {failure['error']}"
