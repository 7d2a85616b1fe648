"""Groups of tensors that several processes have rows of: a file for each process, and what the whole is like.

    student-00001-of-00002.safetensors    the first rows of every sharded tensor, and all that is not sharded
    student-00002-of-00002.safetensors    the others
    student.pieces.json                   {"pieces": 2, "shapes": {"backbone.cls_token": [1, 1, 384], ...}}

A whole tensor is the rows of all files, in their order. Torch-free until tensors are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bigrun.checkpoint import disk
from bigrun.checkpoint.facts import load_facts
from bigrun.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Pieces", "divide", "group_of_file", "is_in_pieces", "is_index", "shape_of"]

FILE = re.compile(r"(.+?)(?:-[0-9]{5,}-of-[0-9]{5,})?\.safetensors")
Groups = dict[str, dict[str, "Tensor"]]


def index_of(stem: str) -> str:
    return f"{stem}.pieces"


def piece(stem: str, number: int, pieces: int) -> str:
    """The name of one file's group; pieces are counted from 0, in names from 1."""
    return f"{stem}-{number + 1:05d}-of-{pieces:05d}"


def group_of_file(name: str) -> str | None:
    """The group that a file belongs to, by its name; None for a file without tensors."""
    match = FILE.fullmatch(name)
    return match[1] if match else None


def is_index(name: str) -> bool:
    """Whether a file says what the pieces of a group are."""
    return name.endswith(".pieces.json")


def is_in_pieces(checkpoint: Path, stem: str) -> bool:
    """Whether a group of tensors is spread over several files."""
    return (checkpoint / f"{index_of(stem)}.json").is_file()


def divide(tensors: Mapping[str, Mapping[str, Tensor]], *, is_main: bool) -> tuple[Groups, dict[str, Any]]:
    """The groups of tensors that this process writes, and the facts about those that are in pieces.

    What no process has a part of only, the main one writes. Of several copies of the same shards one is written.
    """
    from bigrun.shards import is_sharded, local, shard_of

    mine: Groups = {}
    facts: dict[str, Any] = {}
    for stem, members in tensors.items():
        sharded = {name: tensor for name, tensor in members.items() if is_sharded(tensor)}
        if not sharded:
            if is_main:
                mine[stem] = dict(members)
            continue
        shard = shard_of(next(iter(sharded.values())))
        if shard.is_first_copy:
            whole = {name: tensor for name, tensor in members.items() if name not in sharded}
            own = {name: local(tensor) for name, tensor in sharded.items()}
            mine[piece(stem, shard.number, shard.count)] = own | (whole if shard.number == 0 else {})
        shapes = {name: list(tensor.shape) for name, tensor in sharded.items()}
        facts[index_of(stem)] = {"pieces": shard.count, "shapes": shapes}
    return mine, facts


class Pieces(Mapping[str, "Tensor"]):
    """A group of tensors in one file or several, each put together when it is asked for.

    The files are mapped into memory, so that whoever needs some rows of a tensor at a time needs no more memory.
    """

    def __init__(self, checkpoint: Path, stem: str) -> None:
        """Raises: CheckpointError: a file cannot be read, or does not fit the others."""
        self._where = f"{checkpoint / stem}"
        names = [stem]
        self._shapes: dict[str, tuple[int, ...]] = {}
        if is_in_pieces(checkpoint, stem):
            names, self._shapes = read_index(checkpoint, stem)
        self._files = [opened(checkpoint / f"{name}.safetensors") for name in names]
        self._names = list(self._files[0].keys())
        self._check()

    def _check(self) -> None:
        """That rows add up: a file of another save would give other rows."""
        from safetensors import SafetensorError

        for name, shape in self._shapes.items():
            try:
                found = [tuple(file.get_slice(name).get_shape()) for file in self._files]
            except SafetensorError as error:
                raise CheckpointError(f"{self._where}: {name} is not in every piece: {error}") from error
            if sum(rows for rows, *_ in found) != shape[0] or any(rest != list(shape[1:]) for _, *rest in found):
                raise CheckpointError(f"{self._where}: the pieces of {name} have shapes {found}, not {shape} in all")

    def __getitem__(self, name: str) -> Tensor:
        import torch

        if name not in self._names:
            raise KeyError(name)
        if name not in self._shapes:
            return self._files[0].get_tensor(name)  # type: ignore[no-any-return]
        return torch.cat([file.get_tensor(name) for file in self._files])

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a whole tensor, which is not read."""
        return self._shapes[name] if name in self._shapes else tuple(self._files[0].get_slice(name).get_shape())

    def form(self, name: str) -> str:
        """Type and shape of a tensor, which is not read: `F32 [4, 3]`."""
        return f"{self._files[0].get_slice(name).get_dtype()} {list(self.shape(name))}"


def shape_of(tensors: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    """Without putting it together where it is in pieces."""
    return tensors.shape(name) if isinstance(tensors, Pieces) else tuple(tensors[name].shape)


def read_index(checkpoint: Path, stem: str) -> tuple[list[str], dict[str, tuple[int, ...]]]:
    """The names of the files' groups, and the shapes of the tensors that are in pieces."""
    facts = load_facts(checkpoint, index_of(stem))
    try:
        if facts["pieces"] < 1:
            raise ValueError(f"{facts['pieces']} pieces")
        shapes = {name: tuple(map(int, shape)) for name, shape in facts["shapes"].items()}
        return [piece(stem, number, facts["pieces"]) for number in range(facts["pieces"])], shapes
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(f"{checkpoint / index_of(stem)}.json: is no index of pieces: {error!r}") from error


def opened(path: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        disk.require_regular(path)
        return safe_open(path, framework="pt", device="cpu")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
