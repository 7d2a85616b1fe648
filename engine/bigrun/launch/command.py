"""`bigrun launch`: a run in several processes. Imports when it runs."""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import click

from bigrun.command_options import device_option, preset_options, training_options
from bigrun.launch.options import SlurmOptions, size_options, slurm_options

__all__ = ["launch"]

DRY_RUN = ("--dry-run", "--steps", "--scratch", "--json")
"""Options of `bigrun run` that `bigrun launch` has not."""


class Launch(click.Command):
    """Says of the options of a dry run where they belong."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if error.option_name not in DRY_RUN:
                raise
            raise click.UsageError(
                f"{error.option_name}: a dry run is for one process: bigrun run PRESET --dry-run", ctx
            ) from None


@click.command(cls=Launch)
@preset_options
@device_option
@training_options
@size_options
@slurm_options
@click.pass_context
def launch(
    context: click.Context,
    /,
    preset: str,
    run_dir: Path | None,
    fresh: bool,
    allowed_changes: tuple[str, ...],
    supervise: bool,
    max_restarts: int | None,
    gpus: int | None,
    processes: int | None,
    nodes: int,
    node_rank: int | None,
    rendezvous: str | None,
    slurm: SlurmOptions,
    sets: tuple[str, ...],
    plugins: tuple[str, ...],
    no_plugins: tuple[str, ...],
    files: tuple[Path, ...],
    **_: Any,
) -> None:
    """Train in several processes: one for each GPU of this machine, and of others with --nodes.

    Each process is `bigrun run PRESET` with the options that are given here. The exit code is that of the run, as if it
    were one process.
    """
    from bigrun.config import read_preset
    from bigrun.launch.size import Nodes
    from bigrun.peers.place import refuse_several
    from bigrun.same_run import check_allowed

    refuse_several("bigrun launch")
    if gpus is not None and processes is not None:
        raise click.UsageError("--gpus and --processes are two names of one number: give one of them")
    document = read_preset(preset, sets=sets, plugins=plugins, no_plugins=no_plugins, files=files)
    check_allowed(allowed_changes)
    for option, is_given in (("--fresh", fresh), ("--supervise", supervise)):
        if is_given and nodes > 1:
            raise click.UsageError(f"{option} is for one machine; this run has --nodes {nodes}")
    if max_restarts is not None and not supervise:
        raise click.UsageError("--max-restarts has no effect without --supervise")
    if slurm.wanted:
        from bigrun.launch.sbatch import print_script

        print_script(context, document, slurm)
        return
    place = Nodes.of_options(nodes, node_rank, rendezvous)
    if supervise:
        from bigrun.supervisor.supervise import Supervisor

        sys.exit(Supervisor(context, document).run())
    from bigrun.launch.launch import launch as start
    from bigrun.supervisor.signals import blocked

    with blocked():
        code = start(context, document, place)
    end_as(code, is_supervised=bool(context.obj))


def end_as(returncode: int, *, is_supervised: bool) -> None:
    """End this process as its run has ended: a supervisor has to see which signal killed a process."""
    if returncode < 0 and is_supervised:
        sys.stdout.flush()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if -returncode != signal.SIGKILL:
            signal.signal(-returncode, signal.SIG_DFL)
        os.kill(os.getpid(), -returncode)
    sys.exit(returncode if returncode >= 0 else 128 - returncode)
