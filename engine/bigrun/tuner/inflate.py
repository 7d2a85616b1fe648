"""A data set that seems to be longer than it is: only for tuning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from bigrun.data.order import EpochOrder, Order

if TYPE_CHECKING:
    from bigrun.data.dataset import Dataset

__all__ = ["InflatedDataset", "InflatedOrder", "inflated"]

Indices = npt.NDArray[np.int64]


class InflatedOrder:
    """The order of `factor` times as many images, of which those with the same index modulo `length` are one."""

    def __init__(self, length: int, seed: int, factor: int) -> None:
        self.length = length
        self.factor = factor
        self.longer = EpochOrder(length * factor, seed)

    def index(self, position: npt.ArrayLike) -> tuple[Indices, Indices]:
        """Epochs and indices of positions (any shape), both int64 of that shape; indices are below `length`, and no
        pair comes twice."""
        epochs, indices = self.longer.index(position)
        return epochs * self.factor + indices // self.length, indices % self.length


class InflatedDataset:
    """A data set in the order of a longer one. Everything else is as it was: an image keeps its index, by which its
    tone, its spacing and its name are known."""

    def __init__(self, dataset: Dataset, factor: int) -> None:
        self.dataset = dataset
        self.factor = factor

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int, /) -> Tensor:
        return self.dataset[index]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "dataset":  # as while it is unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def order(self, seed: int, effective_batch: int) -> Order:
        """Of `bigrun.data.order.order_of`."""
        return InflatedOrder(len(self.dataset), seed, self.factor)


def inflated(dataset: Dataset, factor: int) -> Dataset:
    """The data set in the order of one that is `factor` times as long; as it is where it has an order of its own,
    which has no end anyway."""
    if factor == 1 or getattr(dataset, "order", None) is not None:
        return dataset
    return InflatedDataset(dataset, factor)
