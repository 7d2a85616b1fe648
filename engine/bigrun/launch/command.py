"""`bigrun launch`: a run in several processes. Imports when it runs."""

from __future__ import annotations

import os
import resource
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from bigrun.command_options import device_option, preset_options, training_options
from bigrun.dry_run.options import DryRunOptions, dry_run_options
from bigrun.launch.options import SlurmOptions, size_options, slurm_options

__all__ = ["launch"]


@click.command()
@preset_options
@device_option
@training_options
@dry_run_options
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
    dry: DryRunOptions,
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
    from bigrun.launch.size import Nodes, rehearsed_here
    from bigrun.peers.place import refuse_several
    from bigrun.same_run import check_allowed

    if not dry.wanted:  # which says how a run of several processes is rehearsed
        refuse_several("bigrun launch")
    if gpus is not None and processes is not None:
        raise click.UsageError("--gpus and --processes are two names of one number: give one of them")
    document = read_preset(preset, sets=sets, plugins=plugins, no_plugins=no_plugins, files=files)
    check_allowed(allowed_changes)
    if dry.wanted:
        sys.exit(dry.run(context, document, partial(rehearsed_here, gpus=gpus, processes=processes)))
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
