"""What FSDP2 gathers at once, and how it divides it: tensors along their first dimension. Torch-free.

With S shards of a tensor of n rows each process has ceil(n / S) of them, the last ones fewer or none (`torch.chunk`);
what travels is padded to S * ceil(n / S) rows (torch/distributed/fsdp/_fully_shard/_fsdp_collectives.py).
"""

from __future__ import annotations

import math

import attrs

__all__ = ["Unit", "Units", "padded_numbers", "shard_numbers"]

Shape = tuple[int, ...]


def shard_numbers(shape: Shape, shards: int, rank: int = 0) -> int:
    """How many numbers of a tensor one process has; the first has most."""
    if not shape:
        return 1
    rows = math.ceil(shape[0] / shards)
    return max(min(rows, shape[0] - rank * rows), 0) * math.prod(shape[1:])


def padded_numbers(shape: Shape, shards: int) -> int:
    """How many numbers of a tensor travel when it is gathered, or its gradient is scattered."""
    return shards * shard_numbers(shape, shards)


@attrs.frozen
class Unit:
    """Tensors that are gathered at once."""

    shapes: tuple[Shape, ...] = ()

    @property
    def numbers(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes)

    def padded(self, shards: int) -> int:
        return sum(padded_numbers(shape, shards) for shape in self.shapes)

    def shard(self, shards: int, rank: int = 0) -> int:
        return sum(shard_numbers(shape, shards, rank) for shape in self.shapes)


@attrs.frozen
class Units:
    """All of a run: a unit for each block of a vision transformer, and one for everything else of the objective."""

    student: tuple[Unit, ...] = ()
    teacher: tuple[Unit, ...] = ()
    """Empty where it is the student."""
    frozen: tuple[Unit, ...] = ()
    """Of plugins."""
    frozen_rest: Unit = Unit()
    """What is around these: gathered when it is used first in a step, and whole until the next one."""
    root: Unit = Unit()
    """Heads, embeddings and final norms of student and teacher."""
    root_learning: Unit = Unit()
    """What of it is trained."""

    @property
    def learning(self) -> int:
        """Numbers that have a gradient."""
        return sum(unit.numbers for unit in self.student) + self.root_learning.numbers
