"""How the rows of a tensor are divided among shards. Torch-free."""

from __future__ import annotations

__all__ = ["rows_of"]


def rows_of(count: int, number: int, shards: int) -> slice:
    """Which of so many rows are those of a shard, counted from 0: as `torch.chunk` has them. Of n rows and S shards the
    k-th has ceil(n / S), from k * ceil(n / S) on, or what is left; maybe none."""
    each = -(-count // shards)
    return slice(min(number * each, count), min((number + 1) * each, count))
