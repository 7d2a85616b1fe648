"""The candidates' files: written at once or not at all, known by their hashes, removed when no candidate needs them."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bigrun.checkpoint.disk import hash_file, sync_directory, write
from bigrun.checkpoint.layout import parse_step, step_name
from bigrun.checkpoint.tensors import encode_tensors, load_tensors
from bigrun.errors import CheckpointError
from bigrun.shards import whole

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Shelf", "halves"]


def halves(backbone: nn.Module, *, keep: bool) -> dict[str, Tensor]:
    """What is kept of a backbone, in host memory: parameters in bf16; buffers, the periods of RoPE, are not rounded.

    All processes call it, as each may have a part of every tensor; those that `keep` nothing get nothing.
    """
    import torch

    rounded = {name for name, _ in backbone.named_parameters()}
    found = {}
    for name, tensor in backbone.state_dict().items():
        rows = whole(tensor.detach())
        if keep:
            found[name] = rows.to("cpu", torch.bfloat16) if name in rounded else rows
    return found


class Shelf:
    """Backbones with their parameters in bf16, `step-<step>.safetensors` in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, step: int) -> Path:
        return self.folder / f"{step_name(step)}.safetensors"

    def put(self, step: int, tensors: Mapping[str, Tensor]) -> str:
        """Write a backbone's tensors over what an earlier attempt at this step has left; returns the file's sha256.

        Raises:
            CheckpointError: it cannot be written.
        """
        beside = self.path(step).with_suffix(".new")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            beside.unlink(missing_ok=True)
            record = write(beside, encode_tensors(tensors, beside.name))
            with beside.open("rb") as file:
                os.fsync(file.fileno())
            beside.replace(self.path(step))
            sync_directory(self.folder)
        except OSError as error:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
            raise CheckpointError(f"{self.path(step)}: not saved: {error}") from error
        return record.sha256

    def get(self, step: int, sha256: str | None) -> Mapping[str, Tensor]:
        """Read a backbone.

        Raises:
            CheckpointError: it is missing or damaged.
        """
        path = self.path(step)
        try:
            if sha256 is not None and hash_file(path) != sha256:
                raise CheckpointError(f"{path}: damaged: it holds other bytes than were written")
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
        return load_tensors(self.folder, step_name(step))

    def adopt(self, other: Shelf, steps: Collection[int]) -> None:
        """Copy what this shelf has not of another one. Raises CheckpointError when it cannot be written."""
        for step in steps:
            source = other.path(step)
            if source.is_file() and not source.is_symlink() and not self.path(step).exists():
                beside = self.path(step).with_suffix(".new")
                try:
                    self.folder.mkdir(parents=True, exist_ok=True)
                    beside.unlink(missing_ok=True)
                    shutil.copyfile(source, beside)
                    beside.replace(self.path(step))
                except OSError as error:
                    raise CheckpointError(f"{self.path(step)}: not copied from {other.folder}: {error}") from error

    def sweep(self, steps: Collection[int]) -> None:
        """Remove all files but those of these steps."""
        for path in self.folder.glob("step-*"):
            if path.suffix == ".new" or parse_step(path.stem) not in steps:
                path.unlink(missing_ok=True)
