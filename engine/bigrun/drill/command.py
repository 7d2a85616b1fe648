"""`bigrun drill`: prove that a run cannot be lost. Imports when it runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from bigrun.command_options import preset_options

__all__ = ["drill"]


@click.command()
@preset_options
@click.option(
    "--dir",
    "parent",
    type=click.Path(path_type=Path),
    default=Path("runs"),
    show_default=True,
    help="Where the drill makes its folder: on the disk that the run will use.",
)
@click.option("--cycles", type=click.IntRange(min=1), default=3, show_default=True, help="Kills of each kind.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the moments at which runs are killed.")
@click.option("--small-only", is_flag=True, help="Leave out the three steps of the preset's own network.")
@click.option("--keep", is_flag=True, help="Keep the runs of the drill although all went well.")
def drill(preset: str, parent: Path, cycles: int, seed: int, small_only: bool, keep: bool, **overrides: Any) -> None:
    """Prove on this machine and disk that a run of PRESET cannot be lost, in minutes, before it begins.

    A small network is trained on the preset's images, with its views, plugins and device: straight through, and again
    and again stopped, killed at random moments and in the middle of a save, with a full disk, a damaged checkpoint, a
    loss that is not a number, another number of decoding processes. Each time the run goes on, and its last state is
    compared with that of the straight run. Then three steps of the preset's own network show what its checkpoints cost.

    Exit code 0: nothing was lost. 1: something was, and the folder with all runs is kept.
    """
    from bigrun.activation import activate
    from bigrun.config import read_preset
    from bigrun.drill.drill import drill as carry_out
    from bigrun.peers.place import refuse_several
    from bigrun.terminal import say

    refuse_several("bigrun drill")
    document = read_preset(preset, **overrides)
    config, _ = activate(document)  # what is wrong with the preset is said before anything is run
    report = carry_out(
        document,
        parent,
        seed=seed,
        cycles=cycles,
        with_full_size=not small_only,
        keep=keep,
        has_objective="objective" not in config.replaced,
        say=lambda line: click.echo(line, err=True),
    )
    for line in report.lines():
        say(line)
    sys.exit(0 if report.passed else 1)
