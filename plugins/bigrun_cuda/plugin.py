"""cuda-tuning: settings of an NVIDIA GPU, each with whether it took effect, and what fits into it."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any

from bigrun import hookimpl
from bigrun.devices import torch_build
from bigrun_cuda.allocator import will_expand
from bigrun_cuda.config import CudaConfig
from bigrun_cuda.defaults import choose_defaults
from bigrun_cuda.tuning import Tuning, optimizer_row

if TYPE_CHECKING:
    import torch

    from bigrun.devices import DeviceFacts
    from bigrun.objective.base import Objective
    from bigrun.run import Run

__all__ = ["CudaTuning"]


class CudaTuning:
    """Tunes an NVIDIA GPU under CUDA; on another device it changes nothing, and says so once."""

    Config = CudaConfig

    def __init__(self, config: CudaConfig) -> None:
        self.config = config
        self._tuning = Tuning(config)
        self._is_active = False
        self._is_compiling = False

    @hookimpl
    def configure_runtime(self, run: Run) -> None:
        if run.config.hardware.device in ("auto", "cuda"):
            self._tuning.before_torch(torch_build())

    @hookimpl
    def configure_device(self, run: Run) -> None:
        self._is_active = run.facts.backend == "cuda"
        if not self._is_active:
            self._tuning.undo()  # a torch for CUDA that trains on the CPU
            return
        for row in self._tuning.on_device(run):
            run.record_setting(row)

    @hookimpl
    def hardware_defaults(self, run: Run) -> Mapping[str, tuple[Any, str]]:
        if run.facts.backend != "cuda":  # not `_is_active`: `bigrun plan` asks for a GPU that is not there
            return {}
        frozen = len(run.hook.frozen_modules.get_hookimpls())  # type: ignore[attr-defined]
        grows = will_expand(run.facts.torch, os.environ, self.config)
        return choose_defaults(run.facts, run.config, frozen, run.strategy.world_size, grows=grows)

    @hookimpl(optionalhook=True)
    def segments_grow(self, facts: DeviceFacts) -> bool | None:
        return will_expand(facts.torch, os.environ, self.config) if facts.backend == "cuda" else None

    @hookimpl
    def configure_model(self, run: Run, objective: Objective) -> None:
        if not self._is_active:
            return
        for row in self._tuning.on_model(run, [objective, *run.frozen.values()]):
            run.record_setting(row)
        self._is_compiling = bool(self.config.compile)

    @hookimpl(wrapper=True)
    def build_optimizer(self, run: Run) -> Generator[None, torch.optim.Optimizer, torch.optim.Optimizer]:
        optimizer = yield
        if self._is_active:
            run.record_setting(optimizer_row(optimizer))
        return optimizer

    @hookimpl
    def on_start(self, run: Run) -> None:
        if not self._is_active:
            message = f"cuda-tuning is for NVIDIA GPUs: it changes nothing on this device ({run.facts.backend})"
            run.event("cuda-tuning", message)

    @hookimpl
    def after_step(self, run: Run) -> None:
        if self._is_compiling:
            from bigrun_cuda.blocks import compile_event

            self._is_compiling = False
            message, facts = compile_event()
            run.event("compiled", message, "warning" if facts["graph_breaks"] else "info", **facts)

    @hookimpl
    def teardown(self) -> None:
        self._tuning.undo()
