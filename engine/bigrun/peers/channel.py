"""What all processes say at once, over one of torch's groups."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from bigrun.peers.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Channel"]

SIZE_BYTES = 8
HEAD_BYTES = 256
"""Of every message, its size included: whoever is in another exchange has sent as many. The rest, which few have,
follows."""


class Channel:
    """What is sent is on the host, and small."""

    def __init__(self, size: int, pace: Pace, group: Any = None) -> None:
        """`group`: torch's; None: that of all processes, which their first thread uses."""
        self.size = size
        self.pace = pace
        self.group = group

    def exchanged(self, topic: str, value: Any) -> list[tuple[str, Any]]:
        """The topics and values of all, by rank; a value is JSON, with NaN and infinities."""
        text = json.dumps([topic, value]).encode()
        message = len(text).to_bytes(SIZE_BYTES, "little") + text
        with self.pace.together():
            heads = self._gathered(message[:HEAD_BYTES].ljust(HEAD_BYTES))
            sizes = [SIZE_BYTES + int.from_bytes(head[:SIZE_BYTES], "little") for head in heads]
            longest = max(sizes) - HEAD_BYTES
            rests = self._gathered(message[HEAD_BYTES:].ljust(longest)) if longest > 0 else [b""] * self.size
        messages = [(head + rest)[SIZE_BYTES:size] for head, rest, size in zip(heads, rests, sizes, strict=True)]
        return [(topic, value) for topic, value in map(json.loads, messages)]

    def _gathered(self, mine: bytes) -> Sequence[bytes]:
        """Those of all, which are equally long."""
        import torch
        import torch.distributed as dist

        own = torch.frombuffer(bytearray(mine), dtype=torch.uint8)
        found = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(found, own, group=self.group)
        return [each.numpy().tobytes() for each in found]

    def exchanges(self) -> int | None:
        """How many this process has begun; None where torch does not tell."""
        import torch.distributed as dist

        group: Any = self.group or dist.group.WORLD
        try:
            return None if group is None else int(group._get_sequence_number_for_group())
        except (AttributeError, RuntimeError):
            return None
