"""A script for `sbatch`: the same command on every machine of a job, which goes back into the queue."""

from __future__ import annotations

import re
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

import click

from bigrun.activation import activate
from bigrun.config import Document
from bigrun.directory import choose_directory
from bigrun.errors import ExitCode, UsageError
from bigrun.launch.asked import asked_lines, check_asked
from bigrun.launch.options import JOB_REQUEUES, WARNING_SECONDS, SlurmOptions
from bigrun.peers.size import check_size
from bigrun.supervisor.command import words_of

__all__ = ["JOB_REQUEUES", "print_script"]

CPUS_OF_PROCESS = 8
ONCE = {"fresh": "--fresh", "source": "--from", "drop_plugins": "--drop-plugin"}
"""Options that are for a first start: each turn of a job gives the same command again."""
HERE = {"node_rank": "--node-rank", "rendezvous": "--rendezvous"}
WARNINGS = (128 + signal.SIGUSR1, 128 + signal.SIGUSR2)
PREEMPTED = 128 + signal.SIGTERM

DIRECTIVES = """\
#!/bin/bash
# A job of Slurm that trains; `bigrun launch --slurm` has printed this. Read it, change what does not fit your cluster,
# and submit it: sbatch FILE. Each turn of the job continues the run from its newest checkpoint.

#SBATCH --job-name={name}
# On each machine one task, `bigrun launch`, which starts {what}.
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
{gpus}# Cores of each machine, for its processes and those that decode their images (data.workers).
#SBATCH --cpus-per-task={cpus}
{asked}# So many seconds before its time is up the job is told, by USR1 to what srun has started. The run then takes its
# step to the end, saves and ends: it must be enough for a step and a checkpoint, which `bigrun drill` measures.
#SBATCH --signal=USR1@{warning}
# The job may go back into the queue, also when a machine fails or it is preempted, and then goes on in the same file.
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
{more}
"""

BODY = """\
# What is relative in the preset and in the options is so to this folder. Each machine must see it, and the run
# directory.
cd -- {folder} || exit {usage}

# The end of the job is in this script: a plugin is not to requeue it while another machine still saves.
export {job_requeues}=1
{meeting}
command=(
{command}
)

# No machine is ended because another one has ended (--wait, --kill-on-bad-exit): one may still be saving. srun asks for
# cores itself since Slurm 22.05, unless the job has none of its own. With --export the tasks have the environment of
# this script, also where the job was submitted with another one.
cpus=${{SLURM_CPUS_PER_TASK:+--cpus-per-task=$SLURM_CPUS_PER_TASK}}
srun --wait=0 --kill-on-bad-exit=0 --export=ALL $cpus "${{command[@]}}"
code=$?  # the highest of all machines

{when}
echo "bigrun: exit code $code; requeued: $requeue" >&2
if [[ $requeue == yes ]]; then
    scontrol requeue "$SLURM_JOB_ID" || echo "bigrun: not requeued, the checkpoint is safe: submit the job again" >&2
fi
exit "$code"
"""

MEETING = """
# The machines meet at the first one. The port must be free there: one of 10,000, by the number of the job. Which of the
# machines it is on, each `bigrun launch` reads from SLURM_NODEID.
host=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000))
"""

WHEN = """\
requeue=no
case $code in
    {warnings}) requeue=yes ;;  # USR1 or USR2: the time was up, or the cluster passes it on when it preempts
{hours}    {preempted})  # TERM: preempted, which Slurm knows; or cancelled by somebody who does not want it back
        if scontrol show job "$SLURM_JOB_ID" | grep -q 'PreemptTime=[0-9]'; then requeue=yes; fi ;;
esac
"""


def print_script(context: click.Context, document: Document, slurm: SlurmOptions) -> None:
    """Print the script to standard output.

    Args:
        context: of `bigrun launch` as it was given.

    Raises:
        UsageError, ConfigError: there is no such run, an option cannot be repeated in each turn of a job, or is not
            what sbatch takes; or so many processes cannot train what is configured.
    """
    given = context.params
    for kind, why in ((ONCE, "is for a first start, and a job starts again"), (HERE, "is found in the job")):
        for parameter, option in kind.items():
            if given[parameter] is not None and given[parameter] is not False and given[parameter] != ():
                raise UsageError(f"{option} {why}: leave it out with --slurm")
    count = given["gpus"] or given["processes"]
    if count is None:
        raise UsageError("--slurm: say with --gpus N how many GPUs of each machine are to be used")
    check_asked(slurm)
    lines = resources(given, count, slurm, on_cpu=given["gpus"] is None)
    config, _ = activate(document)
    check_device(config.hardware.device, given["gpus"], count)
    check_size(config, given["nodes"] * count)
    facts = {
        "name": re.sub(r"[^\w.-]", "_", config.name, flags=re.ASCII)[:64],
        "nodes": given["nodes"],
        "cpus": slurm.cpus or CPUS_OF_PROCESS * count,
        "warning": slurm.warning_seconds or WARNING_SECONDS,
        "folder": shlex.quote(str(Path.cwd())),
        "usage": int(ExitCode.USAGE),
        "job_requeues": JOB_REQUEUES,
        **lines,
    }
    directory = choose_directory(config, given["run_dir"], fresh=False).absolute()
    script = DIRECTIVES.format(**facts) + BODY.format(
        meeting=MEETING if given["nodes"] > 1 else "",
        command=command_lines(context, directory),
        when=when(has_hours=config.run.max_hours is not None),
        **facts,
    )
    click.echo(script, nl=False)


def check_device(device: str, gpus: int | None, count: int) -> None:
    """
    Raises:
        UsageError: the job would have GPUs that the run does not use, or none for a run that needs them.
    """
    if gpus is not None and device == "cpu":
        raise UsageError(
            f"--gpus {gpus}: the run is to be on the CPU (hardware.device); add --device auto, or say --processes "
            f"{gpus} for a job without GPUs"
        )
    if gpus is None and device in ("cuda", "rocm"):
        raise UsageError(
            f"--processes {count} asks Slurm for no GPU, and hardware.device is {device!r}: say --gpus {count}"
        )


def resources(given: dict[str, Any], count: int, slurm: SlurmOptions, *, on_cpu: bool) -> dict[str, str]:
    """The lines that not every script has."""
    return {
        "what": f"{count} process{'es' * (count > 1)} on the CPU" if on_cpu else "a process for each GPU",
        "gpus": "" if on_cpu else f"#SBATCH --gpus-per-node={count}\n",
        **asked_lines(slurm),
    }


def command_lines(context: click.Context, directory: Path) -> str:
    """The words of the command, one a line, quoted for bash."""
    nothing = dict.fromkeys(("time", "partition", "cpus", "warning_seconds"))
    words = words_of(context, run_dir=directory, slurm=False, sbatch=(), **nothing)
    lines = [shlex.join([sys.executable, "-P", "-m", "bigrun", words[0]]), *map(shlex.quote, words[1:])]
    if context.params["nodes"] > 1:
        lines.insert(1, '--rendezvous="$host:$port"')
    return "\n".join(f"    {line}" for line in lines)


def when(*, has_hours: bool) -> str:
    """When the job goes back."""
    hours = f"    {int(ExitCode.STOPPED)}) requeue=yes ;;  # run.max_hours are over\n" if has_hours else ""
    return WHEN.format(warnings="|".join(map(str, WARNINGS)), hours=hours, preempted=int(PREEMPTED)).rstrip()
