"""The settings of one run: made in order, each with its row, and undone in the opposite order."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from bigrun.devices import Planned, Setting, TorchBuild
from bigrun.devices.pci import pci_address
from bigrun.errors import UsageError
from bigrun_rocm.allocator import LARGEST_FRACTION, allocator_evidence, limit_memory
from bigrun_rocm.attention import TOLERANCES, choose_attention
from bigrun_rocm.defaults import PREFETCH, largest_micro_batch, workers_for
from bigrun_rocm.driver import DriverFacts, read_driver
from bigrun_rocm.environment import Environment, cache_root, plan_environment
from bigrun_rocm.memory import GIB, Budget, HostNeed, host_need, unified_budget
from bigrun_rocm.numerical_check import plan_check
from bigrun_rocm.plan import AOTRITON, plan_aotriton, plan_blas, plan_tunableop
from bigrun_rocm.tunableop import TunableOp
from bigrun_rocm.warm_up import WarmUp, steps_for

if TYPE_CHECKING:
    from bigrun.run import Run
    from bigrun_rocm.config import RocmConfig

__all__ = ["PLUGIN", "Tuning", "frozen_backbones"]

PLUGIN = "rocm-tuning"


class Tuning:
    """What is set for a run, and what was found out on the way."""

    def __init__(self, config: RocmConfig, root: Path = Path("/")) -> None:
        """
        Args:
            root: where `sys` is.
        """
        self._config = config
        self._root = root
        self._undo = contextlib.ExitStack()
        self._environment = Environment()
        self._early: list[tuple[Planned, str | None]] = []
        self._torch_was_there = False
        self.driver = DriverFacts()
        self.budget: Budget | None = None
        self.limit_bytes: int | None = None
        """What the run may take on the device; None before it is known."""
        self.tunableop: TunableOp | None = None
        self.attention_notes: tuple[str, ...] = ()
        """What is wrong with kernels of attention, to be told at the start."""

    def before_torch(self, build: TorchBuild) -> None:
        """Set the environment variables that torch and ROCm's libraries read when they are loaded."""
        self._torch_was_there = "torch" in sys.modules
        self._undo.callback(self._environment.undo)
        for planned in plan_environment(build, os.environ, self._config):
            before = os.environ.get(planned.name)
            if planned.value is not None:
                self._environment.set(planned.name, planned.value)
            self._early.append((planned, before))

    def on_device(self, run: Run) -> list[Setting]:
        """Set up an AMD GPU.

        Raises:
            UsageError: it computes attention wrongly by every kernel, or results cannot be kept.
        """
        import torch

        properties = torch.cuda.get_device_properties(run.facts.index or 0)
        self.driver = read_driver(pci_address(properties), self._root)
        limit, fraction = self._limit_memory(run)
        rows = [self._early_row(planned, before, fraction) for planned, before in self._early]
        rows += [*limit, *self._set_blas(run), *self._set_attention(run)]
        return rows + self._start_tunableop(run)  # last: it would measure the self-test of attention, too

    def undo(self) -> None:
        """Give everything back as it was; may be called twice."""
        self._undo.close()

    # -- one setting each -------------------------------------------------------------------------------------

    def _early_row(self, planned: Planned, before: str | None, fraction: float) -> Setting:
        if planned.value is None:
            return Setting(planned.name, before, before, None, planned.reason, planned.is_custom)
        if "ALLOC_CONF" in planned.name:
            took, evidence = allocator_evidence(planned.value, fraction, torch_was_there=self._torch_was_there)
        else:
            took, evidence = None, f"MIOpen reads it when it is first called, and cannot be asked; {planned.reason}"
        return Setting(planned.name, before, planned.value, took, evidence, planned.is_custom)

    def _limit_memory(self, run: Run) -> tuple[list[Setting], float]:
        """The row, if any, and the fraction of the device that torch may take."""
        import torch

        facts, wish = run.facts, self._config.memory_limit_gib
        total = torch.cuda.get_device_properties(facts.index or 0).total_memory
        if wish is not None:
            limit, reason = round(wish * GIB), "by option"
        elif facts.is_unified:
            self.budget = unified_budget(facts, self.driver, self._host_need(run))
            limit, reason = self.budget.limit_bytes, f"by {self.budget.bound_by}"
        elif any("ALLOC_CONF" in planned.name and planned.value is not None for planned, _ in self._early):
            limit, reason = round(LARGEST_FRACTION * total), "unused blocks are given back only below a limit"
        else:
            self.limit_bytes = facts.total_bytes
            return [], torch.cuda.memory.get_per_process_memory_fraction()
        row, fraction, restore = limit_memory(limit, total, reason, is_custom=wish is not None)
        if restore is not None:
            self._undo.callback(restore)
        self.limit_bytes = round(min(fraction, 1.0) * total)
        return [row], fraction

    def _host_need(self, run: Run) -> HostNeed:
        """By what is set, and else by what `hardware_defaults` will say."""
        config, data = run.config, run.config.data
        workers = data.workers if "data.workers" in config.explicit else workers_for(run.facts)
        prefetch = data.prefetch if "data.prefetch" in config.explicit else PREFETCH
        micro_batch, wish = largest_micro_batch(run.facts, config), self._config.host_reserve_gib
        return host_need(config, workers, prefetch, micro_batch, frozen_backbones(run), wish)

    def _set_blas(self, run: Run) -> list[Setting]:
        from bigrun_rocm.blas import apply_blas

        row, restore = apply_blas(plan_blas(run.facts, os.environ, self._config))
        if restore is not None:
            self._undo.callback(restore)
        return [row]

    def _start_tunableop(self, run: Run) -> list[Setting]:
        enabled, tuning = plan_tunableop(run.facts, os.environ, self._config)
        precision = run.config.hardware.precision
        check = plan_check(run.facts.torch.release, os.environ, self._config, precision)
        if check.obstacle is not None and (enabled.is_on or enabled.is_left_alone):
            raise UsageError(check.obstacle)
        sizes, steps = len(run.config.views.pairs), steps_for(run.config.model.drop_path_fraction)
        warm_up = WarmUp(self._config.tunableop_warmup_steps or steps.most * sizes, steps.quiet * sizes)
        # torch adds to the file at once: each process has its own, also where each sees one GPU, which is number 0
        facts = attrs.evolve(run.facts, index=run.facts.index or run.peers.place.local_rank)
        self.tunableop = TunableOp(facts, cache_root(self._config, os.environ), run.directory / PLUGIN, warm_up)
        self._undo.callback(self.tunableop.stop)
        return self.tunableop.start(enabled, tuning, check, precision)

    def _set_attention(self, run: Run) -> list[Setting]:
        import torch

        from bigrun_rocm.kernels import apply_attention, gate_setting
        from bigrun_rocm.self_test import measure

        gate = plan_aotriton(run.facts, os.environ, self._config)
        before = os.environ.get(gate.name)
        if gate.value is not None:
            self._environment.set(gate.name, gate.value)
        precision = run.config.hardware.precision
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        measured = measure(run.config.model.width // run.config.model.heads, dtype, run.device)
        wishes = {"flash": self._config.flash_attention, "memory-efficient": self._config.memory_efficient_attention}
        choice = choose_attention(measured, wishes, TOLERANCES[precision])
        if choice.obstacle is not None:
            raise UsageError(f"{choice.obstacle}: a training would learn nothing; check driver, ROCm and torch")
        rows, restore = apply_attention(choice)
        self._undo.callback(restore)
        self.attention_notes = choice.warnings
        if gate.value is None:
            return [Setting(AOTRITON, before, before, None, gate.reason, gate.is_custom), *rows]
        return [gate_setting(gate, before, measured["flash"]), *rows]


def frozen_backbones(run: Run) -> int:
    """Networks that plugins keep beside the teacher."""
    return len(run.hook.frozen_modules.get_hookimpls())  # type: ignore[attr-defined]
