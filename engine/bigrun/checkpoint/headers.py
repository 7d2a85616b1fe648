"""What the files of a group say of its tensors, and whether its index says the same; no data is read. Torch-free."""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from bigrun.checkpoint import disk
from bigrun.checkpoint.pieces import group_of_file, group_of_index, index_of, is_piece, read_index
from bigrun.errors import CheckpointError
from bigrun.rows import rows_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from bigrun.checkpoint.pieces import Index

__all__ = ["check_headers", "find_contradictions", "open_tensors"]


def open_tensors(path: Path, framework: str) -> Any:
    """The tensors of a file, read when they are asked for; `framework`: what they become, by its name in safetensors.

    Raises:
        CheckpointError: it cannot be read, or its header is none.
    """
    from safetensors import SafetensorError, safe_open

    try:
        disk.require_regular(path)
        return safe_open(path, framework=framework, device="cpu")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error


def find_contradictions(checkpoint: Path, names: Collection[str]) -> list[str]:
    """Everything in which the files of `checkpoint` differ from the indices of their groups, whatever their hashes are:
    somebody may have written both anew. Each names a file.

    Args:
        names: of the checkpoint's files.
    """
    stems = {group_of_index(name) or (group_of_file(name) if is_piece(name) else None) for name in names} - {None}
    problems = [contradiction(checkpoint, str(stem), names) for stem in sorted(map(str, stems))]
    return [problem.replace(f"{checkpoint}/", "") for problem in problems if problem]


def contradiction(checkpoint: Path, stem: str, names: Collection[str]) -> str | None:
    """The first of one group in pieces."""
    present = sorted(name for name in names if group_of_file(name) == stem)
    if f"{index_of(stem)}.json" not in names:
        return f"{index_of(stem)}.json: is missing, but {present[0]} is a piece"
    try:
        index = read_index(checkpoint, stem)
        if extra := sorted(set(present) - set(index.files)):
            return f"{extra[0]}: is none of the {len(index.files)} pieces that {index_of(stem)}.json says"
        check_headers(checkpoint, stem, index, {name: open_tensors(checkpoint / name, "numpy") for name in index.files})
    except CheckpointError as error:
        return str(error)
    return None


def check_headers(checkpoint: Path, stem: str, index: Index, files: Mapping[str, Any]) -> dict[str, list[int]]:
    """The row at which each file begins, and their number, for each tensor in pieces.

    Args:
        files: as `open_tensors` gives them, by name, in the order of the index.

    Raises:
        CheckpointError: a file does not fit the index, or the others.
    """
    check_names(checkpoint, index, files)
    return {name: checked_starts(f"{checkpoint / stem}", name, shape, files) for name, shape in index.shapes.items()}


def check_names(checkpoint: Path, index: Index, files: Mapping[str, Any]) -> None:
    """That a file has its pieces, and that only the first one has anything else."""
    for number, name in enumerate(index.files):
        held = set(files[name].keys())
        lacks, extra = sorted(index.shapes.keys() - held), sorted(held - index.shapes.keys())
        if lacks:
            raise CheckpointError(f"{checkpoint / name}: has no {', '.join(lacks[:5])}, which is in pieces")
        if extra and number > 0:
            raise CheckpointError(f"{checkpoint / name}: has {', '.join(extra[:5])}, which the index does not name")


def checked_starts(where: str, name: str, shape: tuple[int, ...], files: Mapping[str, Any]) -> list[int]:
    """The row at which each file begins. Each must have its rows: a file of another save, or in the place of another
    one, would give other rows."""
    slices = [file.get_slice(name) for file in files.values()]
    found = [tuple(each.get_shape()) for each in slices]
    if any(one[1:] != shape[1:] or not one for one in found) or sum(rows for rows, *_ in found) != shape[0]:
        raise CheckpointError(f"{where}: the pieces of {name} have shapes {found}, not {shape} in all")
    starts = list(accumulate((rows for rows, *_ in found), initial=0))
    expected = [rows_of(shape[0], number, len(found)) for number in range(len(found))]
    if [slice(*bounds) for bounds in pairwise(starts)] != expected:
        counts = [[rows for rows, *_ in found], [rows.stop - rows.start for rows in expected]]
        raise CheckpointError(f"{where}: the pieces of {name} have {counts[0]} rows, expected {counts[1]}")
    types = sorted({each.get_dtype() for each in slices})
    if len(types) > 1:
        raise CheckpointError(f"{where}: the pieces of {name} have several types: {', '.join(types)}")
    return starts
