"""`bigrun replay`: take a step of a run again. Imports when it runs."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["replay"]


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--step",
    type=click.IntRange(min=1),
    metavar="N",
    help="The step to take again.  [default: the one behind the newest emergency checkpoint]",
)
@click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="KEY=VALUE",
    help="Take it with another option: --set hardware.precision='\"fp32\"'.",
)
def replay(run: Path, step: int | None, sets: tuple[str, ...]) -> None:
    """Take a step of a run again, and say where its first value that is not finite comes from.

    RUN is a run directory; it is only read. The replay begins at the newest verified checkpoint before the step, an
    emergency checkpoint where there is one, and looks at every operation of the step, forward and backward. Where the
    hardware is the same the numbers are those of the first time.
    """
    from bigrun.peers.place import refuse_several
    from bigrun.replay.replay import replay as replay_step
    from bigrun.replay.report import report_lines
    from bigrun.terminal import say

    refuse_several("bigrun replay")
    for line in report_lines(replay_step(run, step, sets, say)):
        say(line)
