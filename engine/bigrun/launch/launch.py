"""Start the processes of a run on this machine, wait for them, and say how the run ended."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import click

from bigrun.activation import activate
from bigrun.config import Document
from bigrun.directory import check_directory, choose_directory
from bigrun.errors import BigrunError
from bigrun.launch.group import Group
from bigrun.launch.size import Nodes, processes_here, threads_each
from bigrun.lock import RunLock
from bigrun.peers.size import check_size
from bigrun.process_end import end_without_finalisation
from bigrun.supervisor.attempt import Attempt
from bigrun.supervisor.command import words_of
from bigrun.supervisor.history import describe_end
from bigrun.terminal import say

__all__ = ["launch"]

RUN_ID = "bigrun"
MEETING_SECONDS = 900
"""So long the machines wait for each other, as under torchrun."""


def launch(context: click.Context, document: Document, nodes: Nodes) -> int:
    """To be called with stop signals blocked, before torch is imported: its threads would let them in.

    Args:
        context: of `bigrun launch` as it was given.
        document: its preset with all overrides.

    Returns:
        The return code of the run: of the main process, or of the one that failed first; minus n if signal n killed it.

    Raises:
        BigrunError: no process was started; the message says why.
    """
    given = context.params
    config, _ = activate(document)  # what is wrong with the preset is said once, before any process is started
    count = processes_here(config.hardware, given["gpus"], given["processes"])
    if nodes.count == 1:
        check_size(config, count)
    directory = choose_directory(config, given["run_dir"], fresh=given["fresh"])
    check_directory(directory)
    if nodes.rank == 0:
        RunLock(directory).check_free()
    attempt = (context.obj or {}).get("supervisor") or Attempt(1, "", None, os.memfd_create("bigrun-step"))
    group = Group(given["grace_seconds"])
    command = click.Context(run_command(context), info_name="run")
    command.params = {str(p.name): given.get(str(p.name)) for p in command.command.params}

    def program(rank: int, number: int) -> list[str]:
        """Each process is `bigrun run`; the directory is chosen, and what is said of it once is said by the first."""
        words = words_of(
            command, run_dir=directory, fresh=given["fresh"] and rank == 0, supervise=False, max_restarts=None
        )
        return [sys.executable, *attempt.program_of(os.getpid(), is_told=number == 0), *words]

    os.environ.update(threads_each(count))
    run_agent(nodes, count, group, program, attempt.descriptor)
    tell_of_killed(group)
    return group.code


def tell_of_killed(group: Group) -> None:
    """Who was killed says nothing, and the others only that it is gone."""
    number = next((number for number, code in group.ended if code == group.failure), 0)
    if group.failure is not None and group.failure < 0:
        say(f"error: process {number} of this machine was {describe_end(group.failure)}", error=True)
    for number in group.overdue:
        late = f"had not ended {group.grace_seconds:g} s after another one was lost"
        say(f"error: process {number} of this machine {late}, and was killed", error=True)


def run_command(context: click.Context) -> click.Command:
    root = context.find_root().command
    assert isinstance(root, click.Group)
    return root.commands["run"]


def run_agent(
    nodes: Nodes, count: int, group: Group, program: Callable[[int, int], list[str]], descriptor: int
) -> None:
    """Let the machines meet, start this one's processes, and wait until they have ended."""
    from torch.distributed import DistError
    from torch.distributed.elastic.agent.server.api import WorkerSpec
    from torch.distributed.elastic.rendezvous import RendezvousError, RendezvousParameters
    from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

    from bigrun.launch.agent import Agent

    end_without_finalisation()
    try:
        parameters = RendezvousParameters(run_id=RUN_ID, min_nodes=nodes.count, max_nodes=nodes.count, **meeting(nodes))
        spec = WorkerSpec(
            role="bigrun",
            local_world_size=count,
            entrypoint="bigrun",
            rdzv_handler=get_rendezvous_handler(parameters),
            max_restarts=0,
            master_addr=nodes.host if nodes.count > 1 else None,
            master_port=nodes.port if nodes.count > 1 else None,
        )
        Agent(spec, group, program, descriptor).run()
    except (DistError, RendezvousError) as error:
        if group.ended:
            raise
        raise BigrunError(
            f"the {nodes.count} machines have not met at {nodes.host}:{nodes.port} ({error}): give the same command on "
            "each of them, with its own --node-rank; machine 0 must have that name and the port free"
        ) from None


def meeting(nodes: Nodes) -> dict[str, Any]:
    """How they meet. Of several machines number 0 is named, and keeps what all have to know (torchrun's `static`): the
    main process is always there, and nobody depends on what a machine calls itself, as with `c10d`. One alone takes
    a free port."""
    if nodes.count == 1:
        return {"backend": "c10d", "endpoint": f"{nodes.host}:0", "local_addr": nodes.host, "is_host": True}
    return {
        "backend": "static",
        "endpoint": f"{nodes.host}:{nodes.port}",
        "rank": nodes.rank,
        "timeout": MEETING_SECONDS,
    }
