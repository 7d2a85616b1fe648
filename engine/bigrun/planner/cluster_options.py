"""The options of `bigrun plan` for several GPUs. Imports when it runs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import click

from bigrun.finite import FiniteRange
from bigrun.planner.links import NETWORKS, NODE_LINKS

if TYPE_CHECKING:
    from bigrun.planner.cluster import Cluster
    from bigrun.planner.gpus import Gpu
    from bigrun.planner.measured import Speed
    from bigrun.planner.plan import Plan
    from bigrun.planner.sharing import Sharing

__all__ = ["ClusterOptions", "cluster_options"]

F = TypeVar("F", bound=Callable[..., Any])

ABOVE_ZERO = FiniteRange(min=0, min_open=True)

OPTIONS = {
    "gpus": click.option(
        "--gpus", metavar="N[,N...]", help="Plan for so many GPUs on each node, a process for each; several: a table."
    ),
    "nodes": click.option("--nodes", type=click.IntRange(min=1), metavar="M", help="Nodes.  [default: 1]"),
    "node_link": click.option(
        "--node-link",
        type=click.Choice(list(NODE_LINKS)),
        help="What connects the GPUs of a node.  [default: that of --gpu, else pcie4]",
    ),
    "node_gb_per_second": click.option(
        "--node-gb-per-second", type=ABOVE_ZERO, help="What a GPU sends to those of its node, as measured."
    ),
    "network": click.option(
        "--network", type=click.Choice(list(NETWORKS)), help="What connects the nodes.  [default: ethernet-100]"
    ),
    "network_gbit_per_second": click.option(
        "--network-gbit-per-second", type=ABOVE_ZERO, help="What a node sends to the others, as measured."
    ),
    "step_seconds": click.option(
        "--step-seconds",
        type=ABOVE_ZERO,
        help="What a step of the same effective batch takes in one process, as measured.",
    ),
    "mfu": click.option(
        "--mfu",
        type=FiniteRange(0, 1, min_open=True),
        help="Share of the peak of --gpu that training reaches, where nothing was measured.  [default: 0.4]",
    ),
}


@attrs.frozen
class ClusterOptions:
    """As they were typed."""

    gpus: str | None = None
    nodes: int | None = None
    node_link: str | None = None
    node_gb_per_second: float | None = None
    network: str | None = None
    network_gbit_per_second: float | None = None
    step_seconds: float | None = None
    mfu: float | None = None

    def sharings(self, *, gpu: Gpu | None, tflops: float | None, speed: Speed | None) -> list[Sharing]:
        """What is planned for, one for each number of GPUs; none where no number was typed.

        Args:
            gpu: the listed one that is planned for.
            tflops: as stated.
            speed: as measured.

        Raises:
            UsageError: it is no number, or one is there twice; or an option was typed that has no effect.
        """
        from bigrun.planner.useless import refuse_useless

        found = self.planned_for()
        refuse_useless(self, found, gpu=gpu, tflops=tflops, speed=speed)
        return found

    def planned_for(self) -> list[Sharing]:
        from bigrun.errors import UsageError
        from bigrun.planner.sharing import Sharing

        if self.gpus is None:
            return []
        words = self.gpus.split(",")
        if not all(word.strip().isdecimal() and int(word) > 0 for word in words):
            raise UsageError(f"--gpus {self.gpus}: expected a number above zero, as 8, or several, as 1,2,4,8")
        numbers = [int(word) for word in words]
        if twice := [number for number in numbers if numbers.count(number) > 1]:
            raise UsageError(f"--gpus {self.gpus}: {twice[0]} is there twice; expected each number once")
        return [Sharing(number, self.nodes or 1) for number in numbers]

    def cluster(self, plan: Plan) -> Cluster:
        """What the processes of a plan tell each other, and how long that takes."""
        from bigrun.planner.cluster import ASSUMED_MFU, Cluster, computing
        from bigrun.planner.links import links_for

        links = links_for(
            plan.gpu,
            node_link=self.node_link,
            node_gb_per_second=self.node_gb_per_second,
            network=self.network,
            network_gbit_per_second=self.network_gbit_per_second,
        )
        return Cluster(plan, links, computing(plan, self.step_seconds, self.mfu or ASSUMED_MFU))


def cluster_options(command: F) -> F:
    """The options as one argument, `cluster`."""

    @functools.wraps(command)
    def collected(*args: Any, **options: Any) -> Any:
        return command(*args, cluster=ClusterOptions(**{name: options.pop(name) for name in OPTIONS}), **options)

    decorated: Any = collected
    for option in reversed(OPTIONS.values()):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]
