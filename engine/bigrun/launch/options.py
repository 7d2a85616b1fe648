"""The options of `bigrun launch` that `bigrun run` has not. Imports when it runs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import attrs
import click

from bigrun.finite import FiniteRange, WholeRange

__all__ = ["JOB_REQUEUES", "SlurmOptions", "size_options", "slurm_options"]

F = TypeVar("F", bound=Callable[..., Any])

JOB_REQUEUES = "BIGRUN_JOB_REQUEUES"
"""Environment variable by which the script of a job says that it requeues the job itself, once all machines have
ended."""
GRACE_SECONDS = 600.0
WARNING_SECONDS = 600
MOST = 10_000
"""Machines, processes of one and its cores: a number beyond is mistyped, and torch or Slurm would say so otherwise."""
MOST_SECONDS = 7 * 86400


# The last one is the first in the help.
SIZE = (
    click.option(
        "--grace-seconds",
        type=FiniteRange(min=0, max=MOST_SECONDS),
        default=GRACE_SECONDS,
        show_default=True,
        help="When a process was lost: so long the others may take to end, as for a checkpoint that is being "
        "written, before they are killed.",
    ),
    click.option(
        "--rendezvous",
        metavar="HOST:PORT",
        help="With --nodes: machine 0, and a port that is free there. The same on all.",
    ),
    click.option(
        "--node-rank",
        type=WholeRange(min=0, max=MOST - 1),
        metavar="N",
        help="With --nodes: the number of this machine, from 0; the main process is on 0.  [default: SLURM_NODEID]",
    ),
    click.option(
        "--nodes",
        type=WholeRange(min=1, max=MOST),
        metavar="N",
        default=1,
        show_default=True,
        help="Machines; the command is given on each of them.",
    ),
    click.option(
        "--processes",
        type=WholeRange(min=1, max=MOST),
        metavar="N",
        help="The same as --gpus, also where there are none: so many processes on the CPU.",
    ),
    click.option(
        "--gpus",
        type=WholeRange(min=1, max=MOST),
        metavar="N",
        help="GPUs to use on each machine, by a process each.  [default: all that torch sees]",
    ),
)
SLURM = (
    click.option(
        "--sbatch",
        multiple=True,
        metavar="OPTION",
        help="With --slurm: one more option of sbatch, as --sbatch=--account=lab.",
    ),
    click.option(
        "--warning-seconds",
        type=WholeRange(min=1, max=65535),
        metavar="N",
        help="With --slurm: so long before its time is up the job is told, which must be enough for a step and a "
        f"checkpoint.  [default: {WARNING_SECONDS}]",
    ),
    click.option(
        "--cpus",
        type=WholeRange(min=1, max=MOST),
        metavar="N",
        help="With --slurm: cores of each machine.  [default: 8 for each process]",
    ),
    click.option("--partition", metavar="NAME", help="With --slurm: the partition.  [default: the cluster's]"),
    click.option("--time", metavar="TIME", help="With --slurm: the job's time, as 24:00:00 or 2-00:00:00."),
    click.option(
        "--slurm",
        is_flag=True,
        help="Start nothing; print a script for sbatch, to be read and submitted, whose job goes back into the "
        "queue when its time is up or it is preempted, and continues.",
    ),
)


@attrs.frozen
class SlurmOptions:
    """As they were given."""

    wanted: bool
    time: str | None
    partition: str | None
    cpus: int | None
    warning_seconds: int | None
    more: tuple[str, ...]
    """Words of `#SBATCH` lines."""


def size_options(command: F) -> F:
    """--gpus, --processes, --nodes, --node-rank, --rendezvous and --grace-seconds."""
    decorated: Any = command
    for decorate in SIZE:
        decorated = decorate(decorated)
    result: F = decorated
    return result


def slurm_options(command: F) -> F:
    """--slurm and what belongs to it, as one argument `slurm`."""

    @functools.wraps(command)
    def with_slurm(
        *args: Any,
        slurm: bool,
        time: str | None,
        partition: str | None,
        cpus: int | None,
        warning_seconds: int | None,
        sbatch: tuple[str, ...],
        **options: Any,
    ) -> Any:
        given = SlurmOptions(slurm, time, partition, cpus, warning_seconds, sbatch)
        alone = {"--time": time, "--partition": partition, "--cpus": cpus, "--warning-seconds": warning_seconds}
        for name, value in (alone | {"--sbatch": sbatch or None}).items():
            if value is not None and not slurm:
                raise click.UsageError(f"{name} has no effect without --slurm")
        return command(*args, slurm=given, **options)

    decorated: Any = with_slurm
    for decorate in SLURM:
        decorated = decorate(decorated)
    result: F = decorated
    return result
