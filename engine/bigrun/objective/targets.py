"""What the teacher says, kept as e numbers a row and computed as K numbers when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import ContextVar

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "KEPT_ELEMENTS", "Targets", "compute_type", "imitated_device", "logits_of", "parts", "rows_at_once",
    "softmax_targets",
]  # fmt: skip

# Numbers of one tensor of logits at a time. On a CPU 16 MiB in fp32, 64 rows of K = 65,536: glibc takes tensors above
# 32 MiB from the kernel and gives them back each time, which made an operation on twice as many rows 5 to 10 times as
# slow.
CHUNK_ELEMENTS = {"cpu": 2**22}
CHUNK_ELEMENTS_ELSEWHERE = 2**25
# Numbers that may be kept over a step in the compute type: 128 MiB in bf16, the patches of 16 images with K = 65,536.
KEPT_ELEMENTS = 2**26

imitated_device: ContextVar[str | None] = ContextVar("imitated_device", default=None)
"""The kind of device that a CPU stands for, as where memory is predicted; None: itself."""


def softmax_targets(logits: Tensor, temperature: float, bias: Tensor) -> Tensor:
    """softmax(logits / T + bias): (..., K) -> (..., K) float32, rows sum to 1.

    Sinkhorn-Knopp's targets with its bias r, and those of softmax centring with bias -c / T.
    """
    return torch.softmax(torch.add(bias, logits.float(), alpha=1 / temperature), dim=-1)


def logits_of(bottlenecks: Tensor, prototypes: Tensor) -> Tensor:
    """(V, m, e) and (K, e) -> (V, m, K). A product of two matrices: of three dimensions torch would first copy the
    prototypes V times."""
    return F.linear(bottlenecks.flatten(0, 1), prototypes).view(*bottlenecks.shape[:2], len(prototypes))


def compute_type(tensor: Tensor) -> Tensor:
    """In autocast's type where autocast is on."""
    kind = tensor.device.type
    return tensor.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else tensor


def rows_at_once(elements_per_row: int, device: torch.device) -> int:
    """How many rows of logits are computed together, at least 1."""
    kind = imitated_device.get() or device.type
    return max(CHUNK_ELEMENTS.get(kind, CHUNK_ELEMENTS_ELSEWHERE) // elements_per_row, 1)


def parts(start: int, stop: int, length: int) -> Iterator[slice]:
    """Slices of at most `length` from start to stop; nothing is one empty slice."""
    return (slice(at, min(at + length, stop)) for at in range(start, max(stop, start + 1), length))


@attrs.frozen(eq=False)
class Targets:
    """The teacher's assignments of G crops of n images (or of n patches, with G = 1)."""

    bottlenecks: Tensor  # (G, n, e)
    prototypes: Tensor  # (K, e)
    bias: Tensor  # (K,) float32
    temperature: float

    def rows(self, part: slice) -> Tensor:
        """Of some of the n: (G, m, K) float32, rows sum to 1, without gradient."""
        with torch.no_grad():
            logits = logits_of(self.bottlenecks[:, part], self.prototypes)
            return softmax_targets(logits, self.temperature, self.bias)

    def entropy(self) -> Tensor:
        """Mean entropy of the targets in nat, shape (), float32."""
        crops, count, _ = self.bottlenecks.shape
        step = rows_at_once(crops * len(self.prototypes), self.bias.device)
        sums = [torch.special.entr(self.rows(part)).sum() for part in parts(0, count, step)]
        return torch.stack(sums).sum() / max(crops * count, 1)
