"""The settings of one run: made in order, each with its row, and undone in the opposite order."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bigrun.devices import Planned, Setting, TorchBuild
from bigrun.errors import UsageError
from bigrun_rocm.allocator import allocator_evidence, limit_memory
from bigrun_rocm.attention import TOLERANCES, choose_attention
from bigrun_rocm.defaults import workers_for
from bigrun_rocm.driver import DriverFacts, read_driver
from bigrun_rocm.environment import Environment, cache_root, plan_environment
from bigrun_rocm.memory import GIB, Budget, host_reserve_bytes, unified_budget
from bigrun_rocm.plan import AOTRITON, plan_aotriton, plan_blas, plan_tunableop
from bigrun_rocm.tunableop import TunableOp

if TYPE_CHECKING:
    from bigrun.run import Run
    from bigrun_rocm.config import RocmConfig

__all__ = ["PLUGIN", "Tuning"]

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
        """What torch may take; None: no limit is set."""
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
        self.driver = read_driver(pci_address(run.facts.index), self._root)
        rows = [self._early_row(planned, before) for planned, before in self._early]
        rows += self._limit_memory(run)
        rows += self._set_blas(run)
        rows += self._start_tunableop(run)
        return rows + self._set_attention(run)

    def undo(self) -> None:
        """Give everything back as it was; may be called twice."""
        self._undo.close()

    # -- one setting each -------------------------------------------------------------------------------------

    def _early_row(self, planned: Planned, before: str | None) -> Setting:
        if planned.value is None:
            return Setting(planned.name, before, before, None, planned.reason, planned.is_custom)
        if "ALLOC_CONF" in planned.name:
            took, evidence = allocator_evidence(planned.value, torch_was_there=self._torch_was_there)
        else:
            took, evidence = None, f"MIOpen reads it at its first convolution, and cannot be asked; {planned.reason}"
        return Setting(planned.name, before, planned.value, took, evidence, planned.is_custom)

    def _limit_memory(self, run: Run) -> list[Setting]:
        facts, wish = run.facts, self._config.memory_limit_gib
        if wish is not None:
            limit, reason = round(wish * GIB), "by option"
        elif facts.is_unified:
            is_set = "data.workers" in run.config.explicit
            workers = run.config.data.workers if is_set else workers_for(facts)  # what `hardware_defaults` will say
            reserve = host_reserve_bytes(workers, self._config.host_reserve_gib)
            self.budget = unified_budget(facts, self.driver, reserve)
            limit, reason = self.budget.limit_bytes, f"by {self.budget.bound_by}"
        else:
            return []
        self.limit_bytes = min(limit, facts.total_bytes)
        row, restore = limit_memory(limit, facts.total_bytes, reason, is_custom=wish is not None)
        self._undo.callback(restore)
        return [row]

    def _set_blas(self, run: Run) -> list[Setting]:
        from bigrun_rocm.blas import apply_blas

        row, restore = apply_blas(plan_blas(run.facts, os.environ, self._config))
        if restore is not None:
            self._undo.callback(restore)
        return [row]

    def _start_tunableop(self, run: Run) -> list[Setting]:
        enabled, tuning = plan_tunableop(run.facts, os.environ, self._config)
        self.tunableop = TunableOp(run.facts, cache_root(self._config, os.environ), run.directory / PLUGIN)
        self._undo.callback(self.tunableop.stop)
        return self.tunableop.start(enabled, tuning)

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


def pci_address(index: int | None) -> str | None:
    """`0000:c2:00.0`; None where torch does not say."""
    import torch

    properties = torch.cuda.get_device_properties(index or 0)
    numbers = [getattr(properties, f"pci_{part}_id", None) for part in ("domain", "bus", "device")]
    if any(number is None for number in numbers):
        return None
    domain, bus, slot = numbers
    return f"{domain:04x}:{bus:02x}:{slot:02x}.0"
