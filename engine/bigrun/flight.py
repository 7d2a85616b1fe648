"""The flight record: what the last steps were made of, for somebody who has to find out why one went wrong."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs

from bigrun.metrics import means

if TYPE_CHECKING:
    from torch import Tensor

    from bigrun.data.dataset import Samples

__all__ = ["FLIGHT", "FlightRecorder", "of_all"]

FLIGHT = "flight"
"""Name of the record among the facts of an emergency checkpoint."""
STEPS = 200


@attrs.frozen(eq=False)
class Entry:
    """One step; its numbers stay where they are until somebody asks."""

    step: int
    position: int
    images: list[tuple[Tensor, Tensor]]
    """Epochs and indices, by micro-batch: copies, for samples are in memory that a decoding process shares, with a file
    descriptor for each of their tensors."""
    values: list[tuple[str, Tensor | float]]


class FlightRecorder:
    """Keeps the last 200 steps: the numbers of their images, and their metrics where they are, on the device."""

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque(maxlen=STEPS)

    def record(
        self, step: int, position: int, samples: list[Samples], values: list[tuple[str, Tensor | float]]
    ) -> None:
        """Keep a step.

        Args:
            position: images consumed before it.
            samples: its micro-batches; of them the numbers of the images are kept.
            values: its metrics, by name, once for every micro-batch.
        """
        images = [(s.epochs.clone(), s.indices.clone()) for s in samples]
        self._entries.append(Entry(step, position, images, values))

    def dump(self) -> list[dict[str, Any]]:
        """One object per step, oldest first, as JSON: `step`, `position`, `images` (epoch and index of each image, by
        micro-batch), `values` (means over the micro-batches; one that is not finite as a string)."""
        return [
            {
                "step": entry.step,
                "position": entry.position,
                "images": [
                    [list(pair) for pair in zip(epochs.tolist(), indices.tolist(), strict=True)]
                    for epochs, indices in entry.images
                ],
                "values": {k: v if math.isfinite(v) else str(v) for k, v in means(entry.values).items()},
            }
            for entry in self._entries
        ]


def of_all(dumps: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """One record of those of all processes, by rank, each of the same steps: all images, and the values' means."""
    return [
        {
            **entries[0],
            "images": [micro for entry in entries for micro in entry["images"]],
            "values": {name: mean_of(entries, name) for name in entries[0]["values"]},
        }
        for entries in zip(*dumps, strict=True)
    ]


def mean_of(entries: Sequence[dict[str, Any]], name: str) -> float | str:
    known = [float(entry["values"][name]) for entry in entries if name in entry["values"]]
    mean = sum(known) / len(known)
    return mean if math.isfinite(mean) else str(mean)
