"""[parallel]: how the processes of a run share its networks."""

from __future__ import annotations

from typing import Literal

import attrs

from bigrun.options import between, option

__all__ = ["Parallel"]

NOT_SHARDED = "parallel.strategy is not 'fsdp'"


def is_sharded(parallel: Parallel) -> bool:
    return parallel.strategy == "fsdp"


@attrs.frozen
class Parallel:
    """How the processes of a run share its networks; one process has them alone, whatever stands here."""

    strategy: Literal["single", "ddp", "fsdp"] | None = option(
        None,
        help="single: one process. ddp: each has whole networks and optimizer states. fsdp: each has a shard of them. "
        "Absent: ddp where there are several processes.",
    )
    shard: Literal["grads", "full"] = option(
        "full",
        effective=is_sharded,
        otherwise=NOT_SHARDED,
        help="What is sharded beside the optimizer's states: gradients, while the student's weights stay whole from "
        "the forward to the backward pass; or its weights too, which are gathered again for the backward pass.",
    )
    replicate: int = option(
        1,
        check=between(1, 100_000),
        effective=is_sharded,
        otherwise=NOT_SHARDED,
        help="Groups of processes that have all shards among them, one after another in rank: weights are gathered "
        "within a group, gradients averaged over all. As many as nodes keeps the gathering within a node.",
    )
