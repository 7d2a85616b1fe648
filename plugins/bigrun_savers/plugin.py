"""memory-savers: less memory for the same training, each way at its own price and off unless asked for."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bigrun import hookimpl
from bigrun.devices import Setting
from bigrun.errors import UsageError
from bigrun_savers.config import SaversConfig

if TYPE_CHECKING:
    import torch

    from bigrun.devices import DeviceFacts
    from bigrun.objective.base import Objective
    from bigrun.run import Run
    from bigrun_savers.teacher import TeacherOffload

__all__ = ["MemorySavers", "offload_refusal", "torchao_refusal"]

STATES, ACTIVATIONS, TEACHER = "optimizer states", "activations in host memory", "teacher in host memory"


class MemorySavers:
    """Builds AdamW with smaller states, and moves what waits to host memory."""

    Config = SaversConfig

    def __init__(self, config: SaversConfig) -> None:
        self.config = config
        self._teacher: TeacherOffload | None = None

    # -- before the run ---------------------------------------------------------------------------------------

    @hookimpl
    def configure_device(self, run: Run) -> None:
        refusal = torchao_refusal() if self.config.optimizer_states == "8bit" else None
        if refusal is not None:
            raise UsageError(refusal)
        why_not = offload_refusal(run.facts)
        for name in self._offloads():
            if why_not is not None:
                run.record_setting(Setting(name, "off", "off", False, why_not))

    def _offloads(self) -> list[str]:
        asked = {ACTIVATIONS: self.config.activation_offload, TEACHER: self.config.teacher_offload}
        return [name for name, is_asked in asked.items() if is_asked]

    @hookimpl
    def configure_model(self, run: Run, objective: Objective) -> None:
        if self.config.activation_offload and offload_refusal(run.facts) is None:
            from bigrun_savers.activations import ActivationOffload

            ActivationOffload(objective.student.backbone)
            evidence = "what the student's backbone keeps is copied to the host; weights stay"
            run.record_setting(Setting(ACTIVATIONS, "off", "on", True, evidence))

    @hookimpl
    def build_optimizer(self, run: Run, parameters: Sequence[dict[str, Any]]) -> torch.optim.Optimizer | None:
        """In the format of the checkpoint that is about to be restored; `on_start` converts."""
        from bigrun_savers.switch import build, saved_states, states_of

        asked = self.config.optimizer_states
        optimizer = build(saved_states(run) or asked, parameters, run.config.optimizer)
        begun = states_of(type(optimizer).__name__)
        if asked != "fp32" or begun != asked:
            from_checkpoint = (
                "" if begun == asked else f" of the checkpoint, converted to {asked} before the first step"
            )
            evidence = f"the optimizer is {type(optimizer).__name__}{from_checkpoint}"
            run.record_setting(Setting(STATES, "fp32", asked, True, evidence))
        return optimizer

    @hookimpl
    def on_start(self, run: Run) -> None:
        self._convert(run)
        if self.config.teacher_offload and offload_refusal(run.facts) is None:
            self._offload_teacher(run)

    def _convert(self, run: Run) -> None:
        from bigrun_savers.switch import converted, states_of

        old, new = states_of(type(run.optimizer).__name__), self.config.optimizer_states
        if old is not None and old != new:
            run.optimizer = converted(run.optimizer, new, run.config.optimizer)
            run.event("optimizer-states", f"the optimizer's states are converted from {old} to {new}", old=old, new=new)

    def _offload_teacher(self, run: Run) -> None:
        from bigrun_savers.teacher import TeacherOffload

        objective = run.objective
        if objective.teacher is objective.student:
            evidence = "the objective has no teacher of its own"
            run.record_setting(Setting(TEACHER, "off", "off", False, evidence))
            return
        self._teacher = TeacherOffload(objective.teacher.backbone, run.device)
        run.optimizer.register_step_post_hook(self._before_teacher)
        evidence = "the weights of its backbone are on the device for forward passes and the update"
        run.record_setting(Setting(TEACHER, "off", "on", True, evidence))

    # -- every step -------------------------------------------------------------------------------------------

    @hookimpl
    def before_update(self, run: Run, step: int) -> None:
        from bigrun.data.draws import derive_seed
        from bigrun_savers.adamw import CompactAdamW

        if isinstance(run.optimizer, CompactAdamW):
            run.optimizer.seed = derive_seed(run.config.run.seed, STATES, step)

    def _before_teacher(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """The teacher's update is next: the gradients have done their part and make room for it."""
        assert self._teacher is not None
        optimizer.zero_grad(set_to_none=True)
        self._teacher.bring()

    @hookimpl(tryfirst=True)
    def after_update(self) -> None:
        if self._teacher is not None:
            self._teacher.keep()


def offload_refusal(facts: DeviceFacts) -> str | None:
    """Why host memory is no other memory here; None where it is."""
    if facts.backend == "cpu":
        return "no effect on a CPU: its memory is the host's"
    if facts.is_unified:
        return f"no effect on {facts.name}: GPU and host share their memory"
    return None


def torchao_refusal() -> str | None:
    """Why 8-bit states cannot be had; importing torchao is the only way to know."""
    asked = "plugins.memory-savers.optimizer_states = '8bit' needs torchao"
    remedy = "install it (pip install 'bigrun[8bit]'), or use 'bf16'"
    try:
        importlib.import_module("torchao.optim.quant_utils")
    except ModuleNotFoundError:
        return f"{asked}, which is not installed: {remedy}"
    except Exception as error:  # whatever a package that was built for another torch raises
        return f"{asked}, which cannot be imported ({type(error).__name__}: {error}): {remedy}"
    return None
