"""A plugin for a real run that is to lack memory: `--plugin gpu_checks.cramped:Cramped`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from bigrun import hookimpl

if TYPE_CHECKING:
    from bigrun.objective.base import Objective
    from bigrun.run import Run

__all__ = ["BYTES", "IMAGES", "Cramped"]

BYTES, IMAGES = "BIGRUN_CHECK_BYTES", "BIGRUN_CHECK_IMAGES"
"""Variables: what torch's allocator may take of a GPU; the largest micro-batch that a CPU pretends to have room for."""


class Cramped:
    """Leaves torch less memory of a GPU. On a CPU, whose memory the kernel ends processes for, torch's error is raised
    instead."""

    @hookimpl
    def configure_device(self, run: Run) -> None:
        if run.facts.is_gpu:
            import torch

            torch.cuda.set_per_process_memory_fraction(int(os.environ[BYTES]) / run.facts.total_bytes, run.device)

    @hookimpl
    def configure_model(self, run: Run, objective: Objective) -> None:
        if run.facts.is_gpu:
            return
        import torch

        def lack(*_: object) -> None:
            if (run.config.data.micro_batch or 0) > int(os.environ[IMAGES]):
                raise torch.OutOfMemoryError("a check pretends that memory has run out. Tried to allocate ...")

        objective.register_forward_pre_hook(lack)
