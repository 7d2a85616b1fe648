"""The tensors of a file with weights, or of the teacher in a checkpoint. Nothing is downloaded, no code is run."""

from __future__ import annotations

import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from bigrun.checkpoint import manifest
from bigrun.checkpoint.pieces import has_group
from bigrun.checkpoint.tensors import load_tensors
from bigrun.errors import CheckpointError, UsageError
from bigrun.mistyped import did_you_mean_path

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Weights", "backbone_of", "is_checkpoint", "read_weights"]

TEACHER = "teacher"
# A backbone is where its patch embedding is: in a training checkpoint that is `teacher.backbone.`.
ANCHORS = (
    "patch_embed.proj.weight",
    "embeddings.patch_embeddings.weight",
    "embeddings.patch_embeddings.projection.weight",
)
INDEX = ".safetensors.index.json"  # of weights that are cut into several files
GLOBAL = re.compile(r"GLOBAL ([\w.]+)")  # what a pickle asked torch's reader for, in its message


@attrs.frozen
class Weights:
    """A backbone's tensors by the names that it gives them, and what else the file holds."""

    prefix: str
    """What stood before every name."""
    backbone: Mapping[str, Tensor]
    others: Mapping[str, Tensor]
    """Tensors outside of the backbone, heads for example, by their full names."""


def is_checkpoint(path: Path) -> bool:
    """Whether this is the directory of a checkpoint of bigrun's."""
    return has_group(path, TEACHER)


def read_weights(path: Path, *, meta: bool = False) -> dict[str, Tensor]:
    """All tensors of a safetensors file, of the files of an index, of a file of `torch.save`, or of the teacher of a
    checkpoint.

    Tables in tables become names with dots. A file of torch is read with `weights_only`: one that needs code to be
    read is refused.

    Args:
        path: a file, or the directory of a checkpoint, every byte of which is verified.
        meta: read names and shapes only.

    Raises:
        UsageError: there is no such file, or it holds something else.
    """
    if is_checkpoint(path):
        problems = [] if meta else manifest.verify(path)
        if problems:
            raise UsageError(f"{path}: the checkpoint is damaged: {'; '.join(problems)}")
        return _read_teacher(path, meta)
    if path.is_dir():
        raise UsageError(f"{path}: is a directory, and no checkpoint{_newest_checkpoint(path)}; name a file")
    if not path.is_file():
        hint = did_you_mean_path(path, lambda other: other.is_file() or is_checkpoint(other))
        raise UsageError(f"{path}: no such file{hint}; nothing is downloaded: fetch the weights yourself")
    if path.name.endswith(INDEX):
        return _read_shards(path, meta)
    return _read_safetensors(path, meta) if path.suffix == ".safetensors" else _read_torch(path, meta)


def backbone_of(tensors: Mapping[str, Tensor], path: Path) -> Weights:
    """The backbone among the tensors of a file: the teacher's, where there are several.

    Raises:
        UsageError: there is none, or several of which none or more than one is a teacher's.
    """
    prefixes = sorted({name.removesuffix(a) for name in tensors for a in ANCHORS if _ends_with(name, a)})
    chosen = prefixes if len(prefixes) < 2 else [p for p in prefixes if "teacher" in p.split(".")]
    if len(chosen) != 1:
        found = f"found {', '.join(map(repr, prefixes))}" if prefixes else f"the first names are {_first(tensors)}"
        raise UsageError(f"{path}: expected one backbone (a name that ends in {' or '.join(ANCHORS)}), {found}")
    prefix = chosen[0]
    return Weights(
        prefix,
        {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)},
        {name: t for name, t in tensors.items() if not name.startswith(prefix)},
    )


def _ends_with(name: str, anchor: str) -> bool:
    return name == anchor or name.endswith(f".{anchor}")


def _first(tensors: Mapping[str, Tensor]) -> str:
    return ", ".join(sorted(tensors)[:5])


def _newest_checkpoint(directory: Path) -> str:
    """A hint for who names a run's directory."""
    newest = max(directory.glob("checkpoints/step-*"), default=None)
    return f" (its newest is {newest})" if newest else ""


def _read_teacher(checkpoint: Path, meta: bool) -> dict[str, Tensor]:
    import torch

    try:
        saved = load_tensors(checkpoint, TEACHER)
        return {name: torch.empty(saved.shape(name), device="meta") if meta else saved[name] for name in saved}
    except CheckpointError as error:
        raise UsageError(str(error)) from error


def _read_safetensors(path: Path, meta: bool) -> dict[str, Tensor]:
    import torch
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                if meta:
                    tensors[name] = torch.empty(file.get_slice(name).get_shape(), device="meta")
                else:
                    tensors[name] = file.get_tensor(name)
    except (OSError, SafetensorError) as error:
        raise UsageError(f"{path}: is not a safetensors file, or is damaged: {error}") from error
    return tensors


def _read_shards(index: Path, meta: bool) -> dict[str, Tensor]:
    """The files that an index names, which lie beside it; each tensor must be where the index says."""
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted({str(shard) for shard in places.values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{index}: is not an index of safetensors files: no table weight_map") from error
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        file = index.parent / shard
        if file.parent != index.parent or not file.is_file():
            raise UsageError(f"{index}: names {shard}, which is not beside it; fetch all files of these weights")
        held = _read_safetensors(file, meta)
        missing = sorted(name for name, place in places.items() if place == shard and name not in held)
        if missing:
            raise UsageError(f"{file}: has no {', '.join(missing[:5])}, which {index.name} says it has")
        tensors |= {name: held[name] for name, place in places.items() if place == shard}
    return tensors


def _read_torch(path: Path, meta: bool) -> dict[str, Tensor]:
    import torch

    if not zipfile.is_zipfile(path):
        raise UsageError(f"{path}: is neither a safetensors file nor one of torch.save, or is damaged")
    try:
        with warnings.catch_warnings(action="ignore"):  # of old protocols and TorchScript: read or refused, and named
            content = torch.load(path, map_location="meta" if meta else "cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        asked = GLOBAL.search(str(error))
        raise UsageError(
            f"{path}: holds more than tensors{f' ({asked[1]})' if asked else ''}, and code in a file is never run; "
            "save its state dict alone"
        ) from error
    except (OSError, RuntimeError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from error
    tensors = dict(_flatten(content, ""))
    if not tensors:
        raise UsageError(f"{path}: holds no tensors by name")
    return tensors


def _flatten(content: Any, prefix: str) -> list[tuple[str, Tensor]]:
    import torch

    if isinstance(content, torch.Tensor):
        return [(prefix.removesuffix("."), content)]
    if isinstance(content, Mapping):
        return [pair for name, value in content.items() for pair in _flatten(value, f"{prefix}{name}.")]
    return []  # epochs, options, lists of the optimizer
