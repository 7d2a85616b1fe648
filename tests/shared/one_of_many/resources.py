"""One process has no memory, or no room on its disk."""

from __future__ import annotations

import os
import resource
import time
from typing import Any

import torch
from torch import Tensor

from bigrun import hookimpl
from one_of_many.who import is_named, is_other


class NoMemory:
    """The allocator has nothing left in a forward pass of more than one image, on the process that `NO_MEMORY`
    names."""

    @hookimpl
    def loss_terms(self, run: Any, step: int) -> dict[str, Tensor]:
        if step == 4 and is_named(run, "NO_MEMORY") and run.config.data.micro_batch > 1:
            torch.empty(1 << 60)
        return {}


class NoRoom:
    """Files end at so many `BYTES` in the steps 3 and 4, on the process that `NO_ROOM` names."""

    @hookimpl(tryfirst=True)
    def before_step(self, run: Any, step: int) -> None:
        if is_named(run, "NO_ROOM") and step in (3, 5):
            end_files_at(int(os.environ["BYTES"]) if step == 3 else None)
            time.sleep(0.5 if step == 5 else 0)


class SmallFiles:
    """The disk refuses large files from step 2 on, until the save of step 3 is over."""

    observer = True

    @hookimpl
    def before_update(self, run: Any, step: int) -> None:
        if is_other(run) and step in (2, 4):
            end_files_at(4096 if step == 2 else None)


def end_files_at(size_bytes: int | None) -> None:
    """What is written beyond it fails; with None, nothing does."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard if size_bytes is None else size_bytes, hard))
