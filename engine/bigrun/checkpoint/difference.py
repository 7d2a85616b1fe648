"""In what two checkpoints differ: configuration, facts, tensors. Torch-free until tensors are read."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import attrs
import tomli

from bigrun.checkpoint import disk, manifest
from bigrun.checkpoint.facts import read_facts
from bigrun.checkpoint.layout import CONFIG, PROVENANCE, holds_checkpoint
from bigrun.checkpoint.pieces import group_of_file, is_index
from bigrun.errors import CheckpointError, UsageError
from bigrun.mistyped import did_you_mean_path
from bigrun.refusals import reading

if TYPE_CHECKING:
    from pathlib import Path

    from bigrun.checkpoint.tensor_difference import Change, FileDifference

__all__ = ["Difference", "compare", "describe"]

ABSENT = object()
ORIGIN = f"{PROVENANCE}.json"
VALUE_LENGTH = 60


@attrs.frozen
class Difference:
    """Everything in which the second checkpoint differs from the first."""

    files: tuple[str, ...]
    """Files that only one has."""
    facts: Mapping[str, list[str]]
    """Differing values of config.toml and of the JSON files, by file."""
    tensors: Mapping[str, FileDifference]
    """By file."""

    @property
    def is_equal(self) -> bool:
        """Whether the two hold the same, bit for bit; when, where and by which start they were saved does not count."""
        tensors = all(file.is_equal for file in self.tensors.values())
        facts = any(changes for name, changes in self.facts.items() if name != ORIGIN)
        return tensors and not self.files and not facts


def compare(a: Path, b: Path) -> Difference:
    """Compare two checkpoints; what their manifests say is not checked: see `manifest.verify`.

    Raises:
        UsageError: one of the directories is no checkpoint, or a file of it cannot be read.
    """
    first, second = file_names(a), file_names(b)
    common = sorted(first & second)
    files = [f"{name}: only in the {where}" for name, where in one_sided(first, second)]
    texts = [name for name in common if name == CONFIG or name.endswith(".json")]
    groups = [name for name in common if group_of_file(name)]
    tensors = {}
    if groups:
        from bigrun.checkpoint.tensor_difference import compare_tensors

        tensors = {name: compare_tensors(a, b, str(group_of_file(name))) for name in groups}
    return Difference(tuple(files), {name: compare_facts(a / name, b / name) for name in texts}, tensors)


def file_names(checkpoint: Path) -> set[str]:
    """Of its files; groups of tensors have the names that one process gives them, in however many pieces they are."""
    with reading(checkpoint):
        is_one = holds_checkpoint(checkpoint)
    if not is_one:
        raise UsageError(
            f"{checkpoint}: is no checkpoint{did_you_mean_path(checkpoint, holds_checkpoint)}; expected a directory "
            "such as runs/my_run/checkpoints/step-00001000"
        )
    try:
        files = manifest.read(checkpoint).files
    except CheckpointError as error:
        raise UsageError(str(error)) from error
    return {
        name if (group := group_of_file(name)) is None else f"{group}.safetensors"
        for name in files
        if not is_index(name)
    }


def one_sided(first: set[str], second: set[str]) -> Iterator[tuple[str, str]]:
    yield from ((name, "first") for name in sorted(first - second))
    yield from ((name, "second") for name in sorted(second - first))


def compare_facts(a: Path, b: Path) -> list[str]:
    """`key: old -> new` of every value that differs, those near the root first."""
    old, new = leaves(read(a)), leaves(read(b))
    tables = {path[:depth] for path in (*old, *new) for depth in range(len(path))}
    for side in (old, new):  # an empty table beside one with values: these say it
        for path in tables & side.keys():
            if side[path] == {}:
                del side[path]
    return [
        f"{'.'.join(path) or 'value'}: {shown(old.get(path, ABSENT))} -> {shown(new.get(path, ABSENT))}"
        for path in sorted(old.keys() | new.keys(), key=lambda path: (len(path), path))
        if not same(old.get(path, ABSENT), new.get(path, ABSENT))
    ]


def read(path: Path) -> Any:
    try:
        return tomli.loads(disk.read_text(path)) if path.name == CONFIG else read_facts(path)
    except (CheckpointError, OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error


def leaves(value: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Every value that is no table, by its path."""
    if not isinstance(value, dict) or (path and not value):
        return {path: value}
    found: dict[tuple[str, ...], Any] = {}
    for key, inner in value.items():
        found |= leaves(inner, (*path, key))
    return found


def same(a: object, b: object) -> bool:
    """Equal and of one type: 1 is neither 1.0 nor true."""
    return a is b or (a is not ABSENT and b is not ABSENT and shown(a, full=True) == shown(b, full=True))


def shown(value: object, *, full: bool = False) -> str:
    if value is ABSENT:
        return "absent"
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
    return text if full or len(text) <= VALUE_LENGTH else f"{text[: VALUE_LENGTH - 4]} ..."


# -- as text ----------------------------------------------------------------------------------------------------------


def describe(difference: Difference, limit: int) -> Iterator[str]:
    """The lines that tell a difference, at most `limit` of each kind and file."""
    yield from difference.files
    for name, changes in difference.facts.items():
        if changes:
            yield f"{name}: {count(len(changes), 'other value')}"
            yield from cut([f"  {change}" for change in changes], limit)
    for name, file in difference.tensors.items():
        if file.misfits:
            yield f"{name}: {count(len(file.misfits), 'tensor')} without a match"
            yield from cut([f"  {misfit}" for misfit in file.misfits], limit)
        yield from describe_changes(name, file.changes, limit)
    if difference.is_equal:
        yield "equal bit for bit"


def describe_changes(name: str, changes: Collection[Change], limit: int) -> Iterator[str]:
    """The parts of the network in one file, the most changed first."""
    from bigrun.listing import table

    changed = [change for change in changes if change.changed]
    if not changed:
        return
    changed.sort(key=lambda c: (not math.isnan(c.relative), -c.relative, c.group))
    total = sum(change.tensors for change in changes)
    yield f"{name}: {sum(change.changed for change in changed):,} of {count(total, 'tensor')} changed"
    rows = [(c.group, f"{c.changed} of {c.tensors}", f"{c.relative:.3g}", f"{c.largest:.3g}") for c in changed]
    head, *body = table(("part", "tensors changed", "relative L2 change", "largest change"), iter(rows)).splitlines()
    yield from (f"  {head}", *cut([f"  {line}" for line in body], limit))


def cut(lines: list[str], limit: int) -> list[str]:
    more = len(lines) - limit
    return [*lines[:limit], f"  ... and {more:,} more (--limit {len(lines)} shows all)"] if more > 0 else lines


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
