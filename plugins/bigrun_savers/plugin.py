"""memory-savers: less memory for the same training, each way at its own price and off unless asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from bigrun import hookimpl
from bigrun.devices import Setting
from bigrun.errors import UsageError
from bigrun.imports import failure_text, import_quietly
from bigrun_savers.config import SaversConfig

if TYPE_CHECKING:
    import torch

    from bigrun.devices import DeviceFacts
    from bigrun.objective.base import Objective
    from bigrun.run import Run
    from bigrun_savers.teacher import TeacherOffload
    from bigrun_savers.two_passes import TwoPasses

__all__ = ["MemorySavers", "offload_refusal", "torchao_refusal", "two_passes_refusal"]

STATES, ACTIVATIONS, TEACHER = "optimizer states", "activations in host memory", "teacher in host memory"
UPDATE = "update in the backward pass"


class MemorySavers:
    """Builds AdamW with smaller states, and moves what waits to host memory."""

    Config = SaversConfig

    def __init__(self, config: SaversConfig) -> None:
        self.config = config
        self._teacher: TeacherOffload | None = None
        self._passes: TwoPasses | None = None
        self._undo: Callable[[], None] | None = None

    @property
    def before_leaving(self) -> str | None:
        """What has to be done before a run can go on without this plugin, whose states torch's AdamW cannot read."""
        states = self.config.optimizer_states
        if states == "fp32":
            return None
        return (
            f"its optimizer's states are {states}; first let the run go on with --plugin memory-savers --set "
            "plugins.memory-savers.optimizer_states=fp32 until a checkpoint is saved"
        )

    # -- before the run ---------------------------------------------------------------------------------------

    @hookimpl
    def configure_device(self, run: Run) -> None:
        self._refuse_without_torchao()
        why_not = offload_refusal(run.facts)
        for name in self._offloads():
            if why_not is not None:
                run.record_setting(Setting(name, "off", "off", False, why_not))

    def _refuse_without_torchao(self) -> None:
        """Asked twice: a rehearsal begins with the optimizer."""
        refusal = torchao_refusal() if self.config.optimizer_states == "8bit" else None
        if refusal is not None:
            raise UsageError(refusal)

    def _refuse_shards(self) -> None:
        asked = {
            "optimizer_states = '8bit'": self.config.optimizer_states == "8bit",
            "teacher_offload": self.config.teacher_offload,
        }
        for option in (option for option, is_asked in asked.items() if is_asked):
            raise UsageError(
                f"plugins.memory-savers.{option}: not with parallel.strategy = 'fsdp', where each process has a shard "
                "of the states and of the teacher; expected to be left out (optimizer_states = 'bf16' is possible)"
            )

    def _offloads(self) -> list[str]:
        asked = {ACTIVATIONS: self.config.activation_offload, TEACHER: self.config.teacher_offload}
        return [name for name, is_asked in asked.items() if is_asked]

    @hookimpl
    def configure_model(self, run: Run, objective: Objective) -> None:
        if run.strategy.is_sharded:
            self._refuse_shards()
        if self.config.update_in_backward:
            self._allow_two_passes(run)
        if self.config.teacher_offload and offload_refusal(run.facts) is None:
            self._record_teacher(run, objective)
        if self.config.activation_offload and offload_refusal(run.facts) is None:
            from bigrun_savers.activations import ActivationOffload

            ActivationOffload(objective.student.backbone)
            evidence = "what the student's backbone keeps is copied to the host; weights stay"
            run.record_setting(Setting(ACTIVATIONS, "off", "on", True, evidence))

    def _allow_two_passes(self, run: Run) -> None:
        why_not = two_passes_refusal(run.accumulate, run.strategy.world_size)
        if why_not is not None:
            run.record_setting(Setting(UPDATE, "off", "off", False, why_not))
            return
        from bigrun_savers.two_passes import keep_buffers

        refuse_selective(run.config.hardware.activation_checkpointing)
        self._undo = keep_buffers()
        evidence = "a first backward pass measures gradients, a second one updates each parameter as its gradient comes"
        run.record_setting(Setting(UPDATE, "off", "on", True, evidence))

    def _record_teacher(self, run: Run, objective: Objective) -> None:
        if objective.teacher is objective.student:
            evidence = "the objective has no teacher of its own"
            run.record_setting(Setting(TEACHER, "off", "off", False, evidence))
            return
        evidence = "the weights of its backbone are on the device for forward passes and the update"
        run.record_setting(Setting(TEACHER, "off", "on", True, evidence))

    @hookimpl
    def build_optimizer(self, run: Run, parameters: Sequence[dict[str, Any]]) -> torch.optim.Optimizer | None:
        """In the format of the checkpoint that is about to be restored; `on_start` converts."""
        self._refuse_without_torchao()
        from bigrun_savers.switch import announce_larger, build, saved_states, states_of

        asked = self.config.optimizer_states
        optimizer = build(saved_states(run) or asked, parameters, run.config.optimizer)
        begun = states_of(type(optimizer).__name__)
        if begun != asked:
            announce_larger(optimizer, build(asked, [dict(group) for group in parameters], run.config.optimizer))
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
        if self._undo is not None:
            from bigrun_savers.two_passes import TwoPasses

            run.strategy = self._passes = TwoPasses(run)
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

        if run.objective.teacher is not run.objective.student:
            self._teacher = TeacherOffload(run.objective.teacher.backbone, run.device)
            run.optimizer.register_step_post_hook(self._before_teacher)

    # -- every step -------------------------------------------------------------------------------------------

    @hookimpl
    def before_update(self, run: Run, step: int) -> None:
        from bigrun.data.draws import derive_seed
        from bigrun_savers.adamw import CompactAdamW

        if isinstance(run.optimizer, CompactAdamW):
            run.optimizer.reseed(derive_seed(run.config.run.seed, STATES, step))

    def _before_teacher(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """The teacher's update is next: the gradients have done their part and make room for it."""
        assert self._teacher is not None
        if self._passes is None or not self._passes.is_updating:
            optimizer.zero_grad(set_to_none=True)
            self._teacher.bring()

    @hookimpl(tryfirst=True)
    def after_update(self) -> None:
        if self._teacher is not None:
            self._teacher.keep()

    @hookimpl
    def after_step(self) -> None:
        self._release()

    @hookimpl
    def on_error(self) -> None:
        self._release()

    def _release(self) -> None:
        if self._passes is not None:
            self._passes.release()

    @hookimpl
    def teardown(self, run: Run) -> None:
        if self._passes is not None:
            run.strategy = self._passes.remove()
            self._passes = None
        if self._undo is not None:
            self._undo()
            self._undo = None


def two_passes_refusal(accumulate: int, processes: int) -> str | None:
    """Why a second backward pass cannot update; None where it can."""
    if accumulate > 1:
        return f"gradients of {accumulate} micro-batches (data.effective_batch / data.micro_batch) must add up first"
    if processes > 1:
        return f"gradients of {processes} processes must add up first"
    return None


def refuse_selective(activation_checkpointing: str) -> None:
    """Raises: UsageError where torch allows one backward pass only."""
    if activation_checkpointing == "selective":
        raise UsageError(
            "plugins.memory-savers.update_in_backward: takes two backward passes, and torch allows one with "
            "hardware.activation_checkpointing = 'selective'; expected 'full' (or 'none')"
        )


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
        import_quietly("torchao.optim.quant_utils")
    except Exception as error:  # whatever a package that was built for another torch raises
        if isinstance(error, ModuleNotFoundError) and error.name == "torchao":
            return f"{asked}, which is not installed: {remedy}"
        return f"{asked}, which cannot be imported ({failure_text(error)}): {remedy}"
    return None
