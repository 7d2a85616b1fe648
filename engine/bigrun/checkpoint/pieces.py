"""Groups of tensors that several processes have rows of: a file for each process, and what the whole is like.

    student-00001-of-00002.safetensors    the first rows of every sharded tensor, and all that is not sharded
    student-00002-of-00002.safetensors    the others
    student.pieces.json                   {"pieces": 2, "shapes": {"backbone.cls_token": [1, 1, 384], ...}}

A whole tensor is the rows of all files, in their order. Torch-free.
"""

from __future__ import annotations

import re
import reprlib
from typing import TYPE_CHECKING, Any

import attrs

from bigrun.checkpoint.facts import load_facts
from bigrun.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

__all__ = [
    "Index",
    "divide",
    "group_of_file",
    "group_of_index",
    "has_group",
    "index_of",
    "is_index",
    "is_piece",
    "pieces_of_file",
    "read_index",
]

FILE = re.compile(r"(.+?)(?:-[0-9]{5,}-of-([0-9]{5,}))?\.safetensors")
Groups = dict[str, dict[str, "Tensor"]]


def index_of(stem: str) -> str:
    """The name of the facts about a group's pieces."""
    return f"{stem}.pieces"


INDEX = f"{index_of('')}.json"


def piece(stem: str, number: int, pieces: int) -> str:
    """The name of one file's group; pieces are counted from 0, in names from 1."""
    return f"{stem}-{number + 1:05d}-of-{pieces:05d}"


def group_of_file(name: str) -> str | None:
    """The group that a file belongs to, by its name; None for a file without tensors."""
    match = FILE.fullmatch(name)
    return match[1] if match else None


def pieces_of_file(name: str) -> int:
    """In how many pieces the group of a file is, by its name; 1 for every other file."""
    match = FILE.fullmatch(name)
    return int(match[2] or 1) if match else 1


def is_piece(name: str) -> bool:
    """Whether a file is a piece of a group, by its name."""
    match = FILE.fullmatch(name)
    return match is not None and match[2] is not None


def is_index(name: str) -> bool:
    """Whether a file says what the pieces of a group are."""
    return name.endswith(INDEX)


def group_of_index(name: str) -> str | None:
    """The group that a file says so of; None for every other file."""
    return name.removesuffix(INDEX) if is_index(name) else None


def has_group(checkpoint: Path, stem: str) -> bool:
    """Whether there is such a group of tensors, in one file or in pieces."""
    return any((checkpoint / name).is_file() for name in (f"{stem}.safetensors", f"{index_of(stem)}.json"))


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


@attrs.frozen
class Index:
    """What the files of a group are, and the shapes of the tensors that are in pieces."""

    files: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]]


def read_index(checkpoint: Path, stem: str) -> Index:
    """The index of a group, or what is true of a group without one: it is one file, and no tensor is in pieces.

    Raises:
        CheckpointError: the index is none, or there are fewer files than it says.
    """
    path = checkpoint / f"{index_of(stem)}.json"
    if not path.is_file():
        return Index((f"{stem}.safetensors",), {})
    facts = load_facts(checkpoint, index_of(stem))
    wrong = wrong_in(facts)
    if wrong is not None:
        raise CheckpointError(f"{path}: is no index of pieces: {wrong}")
    there = {file.name for file in checkpoint.iterdir()}  # so that a wrong number costs no more than the files do
    files = []
    for number in range(facts["pieces"]):
        files.append(f"{piece(stem, number, facts['pieces'])}.safetensors")
        if files[-1] not in there:
            raise CheckpointError(f"{path}: says {facts['pieces']} pieces, but {checkpoint / files[-1]} is missing")
    return Index(tuple(files), {name: tuple(shape) for name, shape in facts["shapes"].items()})


def wrong_in(facts: Any) -> str | None:
    """What keeps facts from being an index."""
    if not isinstance(facts, dict):
        return f"got {reprlib.repr(facts)}, expected an object"
    pieces, shapes = facts.get("pieces"), facts.get("shapes")
    if not is_count(pieces) or pieces == 0:
        return f"pieces is {reprlib.repr(pieces)}, expected a whole number from 1 on"
    if not isinstance(shapes, dict):
        return f"shapes is {reprlib.repr(shapes)}, expected a table of shapes by name"
    for name, shape in shapes.items():
        if not isinstance(shape, list) or not shape or not all(map(is_count, shape)):
            return f"the shape of {reprlib.repr(name)} is {reprlib.repr(shape)}, expected whole numbers, one at least"
    return None


def is_count(value: Any) -> bool:
    return type(value) is int and value >= 0  # True is an int by `isinstance`
