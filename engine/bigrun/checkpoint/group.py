"""Tensors by name: those of a module or an optimizer, or those that were saved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from bigrun.shards import is_sharded, own_rows, place

__all__ = ["TensorGroup"]


class TensorGroup(Mapping[str, Tensor]):
    """Any tensors that are in memory, with what is asked of saved ones too."""

    def __init__(self, members: Mapping[str, Tensor]) -> None:
        self._members = members

    @staticmethod
    def of(tensors: Mapping[str, Tensor]) -> TensorGroup:
        """The group that `tensors` are already, else one of them."""
        return tensors if isinstance(tensors, TensorGroup) else TensorGroup(tensors)

    def __getitem__(self, name: str) -> Tensor:
        return self._members[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    @property
    def is_in_pieces(self) -> bool:
        """Whether a tensor is put together, in new memory, whenever it is asked for."""
        return False

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a whole tensor, which is not read."""
        return tuple(self[name].shape)

    def like(self, name: str, target: Tensor) -> Tensor:
        """A tensor that is sharded as the target of its shape is; the type is kept, memory may be shared. One that is
        sharded is left as it is."""
        tensor = self[name]
        if is_sharded(tensor) or not is_sharded(target):
            return tensor
        return place(tensor[own_rows(target)], target)
