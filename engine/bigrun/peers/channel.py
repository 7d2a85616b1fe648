"""Numbers and texts of all processes, over one of torch's groups."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bigrun.peers.pace import Pace

if TYPE_CHECKING:
    import torch

__all__ = ["Channel"]


class Channel:
    """What is sent is on the host, and small."""

    def __init__(self, size: int, pace: Pace, group: Any = None) -> None:
        """`group`: torch's; None: that of all processes, which their first thread uses."""
        self.size = size
        self.pace = pace
        self.group = group

    def bits(self, numbers: Sequence[int]) -> list[int]:
        """Of each number (below 2**63), the bits that are set anywhere."""
        import torch
        import torch.distributed as dist

        found = torch.tensor(list(numbers), dtype=torch.int64)
        with self.pace.together():
            dist.all_reduce(found, op=dist.ReduceOp.BOR, group=self.group)
        return found.tolist()

    def exchanged(self, value: Any) -> list[Any]:
        """The values of all, by rank; each is JSON, with NaN and infinities."""
        import torch
        import torch.distributed as dist

        mine = torch.tensor(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        with self.pace.together():
            dist.all_gather(sizes, torch.tensor([len(mine)]), group=self.group)
            longest = int(max(sizes))
            padded = torch.zeros(longest, dtype=torch.uint8)
            padded[: len(mine)] = mine
            texts = [torch.empty_like(padded) for _ in sizes]
            dist.all_gather(texts, padded, group=self.group)
        return [json.loads(as_text(text, int(size))) for text, size in zip(texts, sizes, strict=True)]

    def exchanges(self) -> int | None:
        """How many this process has begun; None where torch does not tell."""
        import torch.distributed as dist

        group: Any = self.group or dist.group.WORLD
        try:
            return None if group is None else int(group._get_sequence_number_for_group())
        except (AttributeError, RuntimeError):
            return None


def as_text(encoded: torch.Tensor, size: int) -> bytes:
    return bytes(encoded[:size].tolist())
