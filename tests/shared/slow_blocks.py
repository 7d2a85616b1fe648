"""The blocks of one process of several sleep, in the pass that `SLOW` names; `--plugin slow_blocks:SlowBlocks`."""

from __future__ import annotations

import os
import time
from typing import Any

from torch import Tensor, nn

from bigrun import hookimpl
from bigrun.model.block import Block

SECONDS = 0.1


class SlowBlocks:
    @hookimpl
    def configure_model(self, run: Any, objective: nn.Module) -> None:
        if run.strategy.rank == run.strategy.world_size - 1:
            for block in (part for part in objective.modules() if isinstance(part, Block)):
                block.mlp.register_forward_hook(slow)


def slow(module: nn.Module, arguments: Any, output: Tensor) -> None:
    if not output.requires_grad:
        return
    if os.environ["SLOW"] == "forward":
        time.sleep(SECONDS)
    else:
        output.register_hook(lambda gradient: time.sleep(SECONDS))  # type: ignore[no-untyped-call]
