"""What the processes of a run tell each other in a step: exact bytes. Torch-free.

Every collective has a payload: the whole tensor, as it is before a reduce-scatter, after an all-gather, or on each
process of an all-reduce. With the ring algorithms that NCCL and gloo use for large tensors, each of n processes sends,
and receives, of it

    (n - 1) / n        in an all-gather or a reduce-scatter
    2 (n - 1) / n      in an all-reduce, which is one after the other

(Patarasuk and Yuan, 2009, doi 10.1016/j.jpdc.2008.09.002; nccl-tests, doc/PERFORMANCE.md), and no algorithm in which
processes only send to each other needs less. A switch that adds numbers itself (NVLink SHARP) does.

Not counted: a few hundred bytes by which processes agree, as about whether a step is finite, and metrics.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import attrs

from bigrun.planner.sharing import Sharing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from bigrun.planner.units import Unit, Units
    from bigrun.sections import Objective

__all__ = ["Collective", "Operation", "balancing", "gradients", "sent_bytes", "traffic"]

Operation = Literal["all-gather", "reduce-scatter", "all-reduce"]
PASSES = {"all-gather": 1, "reduce-scatter": 1, "all-reduce": 2}
FP32 = 4


@attrs.frozen
class Collective:
    """One kind of exchange in a step of one process."""

    what: str
    operation: Operation
    payload_bytes: int
    """Of all of them in a step together."""
    count: int
    """How many there are in a step."""
    members: int
    """Processes that take part in one."""
    between_groups: bool = False
    """Whether these are one of each group, and not a group's own."""

    @property
    def sent_bytes(self) -> float:
        """By each process in a step, and as many received, in a ring."""
        return PASSES[self.operation] * self.payload_bytes * (self.members - 1) / self.members


def sent_bytes(collectives: Iterable[Collective]) -> float:
    """By each process in a step."""
    return sum(collective.sent_bytes for collective in collectives)


def traffic(
    units: Units,
    sharing: Sharing,
    accumulate: int,
    compute_bytes: int,
    objective: Objective | None,
    class_tokens: int = 0,
) -> tuple[Collective, ...]:
    """Of one step; nothing where there is one process.

    Args:
        units: of the networks.
        accumulate: micro-batches of a step of each process.
        compute_bytes: of a gathered number: 2 in bf16, 4 in fp32.
        objective: whose assignments are balanced over all processes; None where a plugin brings another one.
        class_tokens: of the global crops of a step, which a queue keeps.
    """
    if sharing.processes == 1:
        return ()
    found = [*gathers(units, sharing, accumulate, compute_bytes), *gradients(units, sharing)]
    if objective is not None:
        found += balancing(objective, sharing.processes, class_tokens)
    return tuple(collective for collective in found if collective.payload_bytes and collective.members > 1)


def gathers(units: Units, sharing: Sharing, accumulate: int, compute_bytes: int) -> Iterator[Collective]:
    """Of weights, where each process has a shard of them.

    The student's blocks are gathered in every forward pass, and again in the backward pass if they are not kept; the
    teacher's and frozen ones in every forward pass; what is around frozen ones once a step; everything else at the
    beginning of every micro-batch, and once for the teacher's pass over the window.
    """
    if sharing.strategy != "fsdp":
        return

    def gather(what: str, gathered: Iterable[Unit], times: int) -> Collective:
        sizes = [unit.padded(sharing.shards) * compute_bytes for unit in gathered]
        return Collective(what, "all-gather", times * sum(sizes), times * len(sizes), sharing.shards)

    yield gather("teacher's blocks", units.teacher, accumulate)
    yield gather("student's blocks, forward", units.student, accumulate)
    if sharing.shard == "full":
        yield gather("student's blocks, backward", units.student, accumulate)
    yield gather("frozen networks' blocks", units.frozen, accumulate)
    yield gather("what is around them", [units.frozen_rest], 1)
    yield gather("heads and embeddings", [units.root], accumulate + 1)


def gradients(units: Units, sharing: Sharing) -> Iterator[Collective]:
    """In fp32, in the last micro-batch of a step.

    DDP: all-reduce of all gradients, one number more included (`bigrun.peers.ddp.Caller`), and which ones are in use
    is not counted. FSDP: reduce-scatter within a group, then all-reduce of the shards between groups; a number for
    each tensor, to clip by.
    """
    if sharing.strategy == "ddp":
        yield Collective("gradients", "all-reduce", FP32 * (units.learning + 1), 1, sharing.processes)
    if sharing.strategy != "fsdp":
        return
    learning = {"gradients of blocks": units.student, "gradients of heads and embeddings": (units.root_learning,)}
    for what, found in learning.items():
        padded, count = FP32 * sum(unit.padded(sharing.shards) for unit in found), len(found)
        yield Collective(what, "reduce-scatter", padded, count, sharing.shards)
        shards = f"shards of {what}"
        yield Collective(shards, "all-reduce", padded // sharing.shards, count, sharing.groups, between_groups=True)
    shapes = sum(len(unit.shapes) for found in learning.values() for unit in found)
    yield Collective("squares of their norms", "all-reduce", FP32 * shapes, 1, sharing.processes)


def balancing(objective: Objective, processes: int, class_tokens: int) -> Iterator[Collective]:
    """Of assignments over the images of a step: K numbers in fp32 for each round of Sinkhorn-Knopp and head, and K
    more for the largest ones (`bigrun.objective.sinkhorn`); or a sum of bottlenecks and their number, for a centre.
    What is balanced within a micro-batch needs nobody; a queue needs the bottlenecks of all."""
    if objective.centring == "sinkhorn" and objective.sinkhorn_scope == "micro":
        return
    heads = {"classes": (objective.prototypes, objective.head_bottleneck)}
    if objective.ibot_weight > 0:
        bottleneck = objective.ibot_head_bottleneck or objective.head_bottleneck
        heads["patches"] = (objective.ibot_prototypes, bottleneck)
    count = objective.sinkhorn_iterations + 1 if objective.centring == "sinkhorn" else 1
    numbers = 0
    for prototypes, bottleneck in heads.values():
        numbers += (prototypes or 0) if objective.centring == "sinkhorn" else bottleneck + 1
    yield Collective("balanced assignments", "all-reduce", FP32 * count * numbers, count * len(heads), processes)
    if objective.queue_steps:
        queued = FP32 * class_tokens * objective.head_bottleneck
        yield Collective("queued class tokens", "all-gather", queued, 1, processes)
