"""torchrun's agent, with processes that are never killed while they save."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from torch.distributed.elastic.agent.server.api import (
    RunResult,
    SimpleElasticAgent,
    WorkerGroup,
    WorkerSpec,
    WorkerState,
)

from bigrun.launch.group import Group
from bigrun.launch.rendezvous import Rendezvous
from bigrun.supervisor.signals import next_signal

__all__ = ["Agent"]

PARTING_SECONDS = 60.0
"""So long the machine where all meet waits for those that have not said that they are done; one may be lost."""
ABANDONED, DONE = "bigrun/abandoned", "bigrun/done/"


class Agent(SimpleElasticAgent):
    """Lets the machines meet as torchrun does, and tells each process its place.

    It is not torch's `LocalElasticAgent`: that one ends all processes when one has ended with another exit code than 0,
    as a run does that was told to stop, and kills them 30 seconds later; and it does not know some of the signals.
    """

    def __init__(self, spec: WorkerSpec, group: Group, program: Callable[[int, int], list[str]], passed: int) -> None:
        """
        Args:
            group: with no process yet.
            program: (rank, number on this machine) -> the words of a process.
            passed: a file descriptor that each process has, too.
        """
        super().__init__(spec)
        self.group = group
        self._program = program
        self._passed = passed

    def _rendezvous(self, worker_group: WorkerGroup) -> None:
        with mortal():
            super()._rendezvous(worker_group)

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        return {
            worker.local_rank: self.group.start(
                self._program(worker.global_rank, worker.local_rank),
                os.environ | self._place(worker_group, worker),
                [self._passed],
            )
            for worker in worker_group.workers
        }

    def _place(self, group: Any, worker: Any) -> dict[str, str]:
        meeting = Rendezvous(
            size=worker.world_size,
            local_size=group.spec.local_world_size,
            node_rank=group.group_rank,
            nodes=group.group_world_size,
            host=str(group.master_addr),
            port=group.master_port,
            run_id=group.spec.rdzv_handler.get_run_id(),
            is_in_launcher=group.spec.rdzv_handler.use_agent_store,
        )
        return meeting.environment(worker.global_rank, worker.local_rank)

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        is_running = self.group.look()
        if (worker_group.group_world_size or 1) > 1:
            self._share_failure(worker_group.store)
        if is_running:
            return RunResult(WorkerState.HEALTHY)
        codes = {worker.global_rank: dict(self.group.ended)[worker.local_rank] for worker in worker_group.workers}
        return RunResult(WorkerState.SUCCEEDED, return_values=codes)  # whatever they are: nothing is to be repeated

    def _share_failure(self, store: Any) -> None:
        """On GPUs a process that waits for one of another machine does not notice that it is gone."""
        try:
            if self.group.failure is not None:
                store.set(ABANDONED, "1")
            elif store.check([ABANDONED]):
                self.group.abandon()
        except RuntimeError:  # the machine where all met is gone
            self.group.abandon()

    def _exit_barrier(self) -> None:
        """The machine where all meet is the last to go: its end would be a failure of the others. torch's own barrier
        lets it go before the others have read that all have come."""
        group: Any = self.get_worker_group()
        store = group.store
        with suppress(RuntimeError):
            store.set(f"{DONE}{group.group_rank}", "1")
            if group.group_rank == 0:
                everybody = [f"{DONE}{rank}" for rank in range(group.group_world_size or 1)]
                until = time.monotonic() + PARTING_SECONDS
                while not store.check(everybody) and time.monotonic() < until:
                    time.sleep(0.1)

    def _stop_workers(self, *_: Any, **__: Any) -> None:
        self.group.end()

    def _shutdown(self, *_: Any, **__: Any) -> None:
        self.group.end()


@contextmanager
def mortal() -> Iterator[None]:
    """A stop signal ends this process at once: it waits in native code, and has started nobody.

    The signals stay blocked, for a thread that torch starts in here is born with the mask of this one, and would let
    them in later.
    """
    has_met = threading.Event()
    watcher = threading.Thread(target=end_of_signal, args=(has_met,), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        has_met.set()
        watcher.join()


def end_of_signal(has_met: threading.Event) -> None:
    while not has_met.is_set():
        number, _ = next_signal(0.1)
        if number is not None:
            os._exit(128 + number)
