"""The settings of one run: made in order, each with its row, and undone in the opposite order."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

from bigrun.devices import Setting, TorchBuild
from bigrun.errors import UsageError
from bigrun_cuda.allocator import allocator_row
from bigrun_cuda.attention import (
    allowed_kernels,
    apply_attention,
    attention_refusal,
    attention_row,
    chosen_kernel,
    cudnn_version,
)
from bigrun_cuda.blocks import (
    blocks_of,
    compile_blocks,
    compile_refusal,
    compile_row,
    raise_recompile_limit,
    what_compiles,
)
from bigrun_cuda.flags import FLAGS, apply_flag
from bigrun_cuda.float8 import convert, float8_refusal, float8_row, torchao_problem
from bigrun_cuda.plan import (
    BENCHMARK,
    PRECISION,
    SUMS,
    plan_allocator,
    plan_attention,
    plan_benchmark,
    plan_precision,
    plan_sums,
)

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bigrun.devices import Planned
    from bigrun.run import Run
    from bigrun_cuda.config import CudaConfig

__all__ = ["Tuning", "optimizer_row"]


class Tuning:
    """What is set for a run, and how to give everything back."""

    def __init__(self, config: CudaConfig) -> None:
        self._config = config
        self._undo = ExitStack()
        self._allocator: tuple[Planned, str | None] | None = None
        self._torch_was_there = False

    def before_torch(self, build: TorchBuild) -> None:
        """Set what torch reads when it is imported."""
        planned = plan_allocator(build, os.environ, self._config)
        if planned is None:
            return
        self._torch_was_there = "torch" in sys.modules
        before = os.environ.get(planned.name)
        self._allocator = (planned, before)
        if planned.value is not None:
            os.environ[planned.name] = planned.value
            self._undo.callback(_unset, planned.name, planned.value)

    def on_device(self, run: Run) -> list[Setting]:
        """Set up an NVIDIA GPU.

        Raises:
            UsageError: blocks are to be compiled, or layers to compute in fp8, and cannot; none of the kernels of
                attention that are allowed can be used.
        """
        self._refuse(run)
        rows = [] if self._allocator is None else [self._allocator_row(*self._allocator)]
        facts, precision = run.facts, run.config.hardware.precision
        flags = (
            plan_precision(facts, self._config, os.environ, FLAGS[PRECISION].read(), precision),
            plan_sums(self._config, FLAGS[SUMS].read()),
            plan_benchmark(self._config, FLAGS[BENCHMARK].read()),
        )
        for planned in flags:
            row, undo = apply_flag(planned)
            rows.append(row)
            if undo is not None:
                self._undo.callback(undo)
        return [*rows, self._attention_row(run)]

    def on_model(self, run: Run, networks: list[nn.Module]) -> list[Setting]:
        """Convert layers and compile blocks.

        Args:
            networks: student and teacher, then what plugins keep beside them.
        """
        rows = []
        if self._config.fp8:
            rows.append(float8_row(*convert(blocks_of(networks[:1]))))
        if self._config.compile:
            blocks = blocks_of(networks)
            self._undo.callback(raise_recompile_limit(len(run.config.views.pairs)))
            compile_blocks(blocks)
            rows.append(compile_row(blocks, is_custom=True))
        return rows

    def undo(self) -> None:
        """Give everything back as it was; may be called twice."""
        self._undo.close()

    def _refuse(self, run: Run) -> None:
        problem = None
        if self._config.compile:
            told = compile_refusal(**what_compiles(os.environ))
            problem = f"plugins.cuda-tuning.compile = true, but {told}; or set it to false" if told else None
        if self._config.fp8 and problem is None:
            problem = float8_refusal(run.facts, run.config, None)  # before what takes seconds to import
            problem = problem or float8_refusal(run.facts, run.config, torchao_problem())
        if problem is not None:
            raise UsageError(problem)

    def _allocator_row(self, planned: Planned, before: str | None) -> Setting:
        row, undo = allocator_row(planned, before, torch_was_there=self._torch_was_there)
        if undo is not None:
            self._undo.callback(undo)
        return row

    def _attention_row(self, run: Run) -> Setting:
        import torch

        model, device, precision = run.config.model, run.device, run.config.hardware.precision
        head_size = model.width // model.heads
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        chosen_kernel(model.heads, head_size, dtype, device)  # torch puts its own order in place
        before = allowed_kernels()
        planned, expected = plan_attention(run.facts, self._config, os.environ, cudnn_version(), head_size, precision)
        undo = apply_attention(planned)
        if undo is not None:
            self._undo.callback(undo)
        chosen = chosen_kernel(model.heads, head_size, dtype, device)
        problem = attention_refusal(planned, chosen, run.facts.arch, head_size, precision)
        if problem is not None:
            raise UsageError(problem)
        return attention_row(planned, before, allowed_kernels(), expected, chosen)


def optimizer_row(optimizer: torch.optim.Optimizer) -> Setting:
    """Whether the optimizer updates all parameters in one kernel; which optimizer it is is not this plugin's to say."""
    name, fused = type(optimizer).__name__, optimizer.defaults.get("fused")
    after = "fused" if fused else "not fused"
    evidence = f"optimizer.defaults['fused'] is {fused}; the optimizer is not this plugin's to choose"
    return Setting(name, None, after, True if fused else None, evidence)


def _unset(name: str, value: str) -> None:
    """Take out what was set, unless somebody has changed it since."""
    if os.environ.get(name) == value:
        del os.environ[name]
