"""rocm-tuning: settings of an AMD GPU, each with whether it took effect, and warnings of known crashes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from bigrun import hookimpl
from bigrun.devices import torch_build
from bigrun.micro_batch import cannot_halve, note_micro_batch
from bigrun_rocm.config import RocmConfig
from bigrun_rocm.defaults import choose_defaults
from bigrun_rocm.known_problems import MICRO_BATCH_CAP, Situation, advice, is_launch_failure, problem_lines
from bigrun_rocm.memory import expected_limit, memory_lines
from bigrun_rocm.plan import compares_kernels
from bigrun_rocm.tuning import PLUGIN, Tuning, frozen_backbones

if TYPE_CHECKING:
    from bigrun.run import Run

__all__ = ["RocmTuning"]


class RocmTuning:
    """Tunes an AMD GPU under ROCm; on another device it changes nothing, and says so once."""

    Config = RocmConfig

    def __init__(self, config: RocmConfig) -> None:
        self.config = config
        self._tuning = Tuning(config)
        self._is_active = False

    @hookimpl
    def configure_runtime(self) -> None:
        build = torch_build()
        if build.backend == "rocm":
            self._tuning.before_torch(build)

    @hookimpl
    def configure_device(self, run: Run) -> None:
        self._is_active = run.facts.backend == "rocm"
        if not self._is_active:
            self._tuning.undo()  # a torch for ROCm that trains on the CPU
            return
        for row in self._tuning.on_device(run):
            run.record_setting(row)

    @hookimpl
    def hardware_defaults(self, run: Run) -> Mapping[str, tuple[Any, str]]:
        """Values for options that neither preset nor command line has set."""
        if run.facts.backend != "rocm":  # not `_is_active`: `bigrun plan` asks for a GPU that is not there
            return {}
        limit = self._tuning.limit_bytes or expected_limit(run.facts, self.config)
        compares = compares_kernels(run.facts, os.environ, self.config)
        processes = run.strategy.world_size
        return choose_defaults(run.facts, run.config, limit, frozen_backbones(run), processes, compares=compares)

    @hookimpl
    def header_lines(self, run: Run) -> list[str]:
        if not self._is_active:
            return []
        budget, driver = self._tuning.budget, self._tuning.driver
        data, model, precision = run.config.data, run.config.model, run.config.hardware.precision
        memory = [] if budget is None else memory_lines(run.facts, driver, budget)
        micro_batch, head_size = data.micro_batch or data.effective_batch, model.width // model.heads
        situation = Situation(
            run.facts, driver, dict(os.environ), micro_batch, data.workers, head_size=head_size, precision=precision
        )
        return memory + problem_lines(situation)

    @hookimpl
    def on_start(self, run: Run) -> None:
        if not self._is_active:
            told = f"{PLUGIN} is for AMD GPUs: it changes nothing on this device ({run.facts.backend})"
            run.event("rocm-tuning", told)
        for note in self._tuning.attention_notes:
            run.event("attention-kernels", note, "warning")
        for note in self._tuning.tunableop.notes if self._tuning.tunableop is not None else ():
            run.event("tunableop", note, "warning")

    @hookimpl
    def after_backward(self) -> None:
        if self._is_active and self.config.synchronize_after_backward:
            import torch

            torch.cuda.synchronize()

    @hookimpl
    def after_step(self, run: Run) -> None:
        tunableop = self._tuning.tunableop
        if tunableop is not None and tunableop.is_warm_after_step():
            with self._told(run, "results of tuned matrix products cannot be written"):
                told, facts = tunableop.freeze()
                run.event("tunableop", told, **facts)

    @hookimpl
    def on_checkpoint(self, run: Run) -> None:
        if self._tuning.tunableop is not None and self._tuning.tunableop.is_ours:
            with self._told(run, "results of tuned matrix products cannot be copied"):
                self._tuning.tunableop.keep_copy()

    @staticmethod
    @contextlib.contextmanager
    def _told(run: Run, what: str) -> Iterator[None]:
        """A disk that refuses a file which only saves time ends no run."""
        try:
            yield
        except OSError as error:
            run.event("tunableop", f"{what}: {error}", "warning")

    @hookimpl
    def on_error(self, run: Run, error: BaseException) -> None:
        if not self._is_active or not is_launch_failure(error):
            return
        micro_batch = run.config.data.micro_batch or run.config.data.effective_batch
        noted = self._note_half(run, micro_batch)
        run.event("gpu-failure", advice(micro_batch, noted), "error", micro_batch=micro_batch, next_micro_batch=noted)

    @staticmethod
    def _note_half(run: Run, micro_batch: int) -> int | None:
        """Leave half of the micro-batch to the next process, if the user wants that where memory is too small: large
        ones have failed with such errors, too. The process itself ends, for its context is lost."""
        wanted = run.config.hardware.on_oom == "halve" and run.directory.is_dir()
        if not wanted or micro_batch <= MICRO_BATCH_CAP or cannot_halve(run) is not None:
            return (
                None  # no such failure is known of smaller ones: hangs of the firmware must not make it small for good
            )
        note_micro_batch(run, micro_batch // 2, run.plugins.step)
        return micro_batch // 2

    @hookimpl
    def teardown(self) -> None:
        self._tuning.undo()
