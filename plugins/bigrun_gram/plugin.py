"""gram-anchoring: holds the student's patch similarities near those of an earlier teacher, the Gram teacher.

Long runs lose dense quality while the class token still improves (arXiv 2508.10104, section 4). An earlier teacher,
whose patch features were good, anchors them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bigrun import hookimpl
from bigrun.errors import ConfigError, UsageError
from bigrun_gram.config import TABLE, GramConfig, cross_problems
from bigrun_gram.header import plan_lines
from bigrun_gram.state import State

if TYPE_CHECKING:
    import torch

    from bigrun.data.dataset import Batch
    from bigrun.data.views import ExtraView
    from bigrun.objective.base import Outputs
    from bigrun.plugins import Plugins
    from bigrun.run import Run
    from bigrun_gram.teacher import GramTeacher

__all__ = ["GramAnchoring"]

MODULE = "gram_teacher"


class GramAnchoring:
    """Takes the Gram teacher, adds the loss, refreshes. The Gram teacher makes no forward pass while its weight is
    zero, and nothing of this happens after a step that was skipped."""

    Config = GramConfig
    state_version = 4

    def __init__(self, config: GramConfig) -> None:
        self.config = config
        self.state = State()
        self._is_settled = False
        self._is_late = False
        self._weight = 0.0
        self._has_learned = True
        self._new_candidate = False

    # -- before the run ---------------------------------------------------------------------------------------

    @hookimpl
    def configure_hooks(self, plugins: Plugins) -> None:
        from bigrun_gram.hooks import GramHooks

        plugins.add_hooks(GramHooks)

    @hookimpl
    def extra_views(self, run: Run) -> Mapping[str, ExtraView]:
        problems = list(cross_problems(self.config, run.config))
        if problems:
            raise ConfigError(run.config.source, problems)
        if self.config.mode not in ("snapshot", "ckpt") or self.config.crop_factor == 1:
            return {}
        from bigrun.data.views import ExtraView
        from bigrun_gram.teacher import VIEW

        return {VIEW: ExtraView(factor=self.config.crop_factor)}

    @hookimpl
    def frozen_modules(self, run: Run) -> Mapping[str, torch.nn.Module]:
        """In every mode: a checkpoint may hold the Gram teacher of another one."""
        from bigrun_gram.teacher import GramTeacher

        is_half = self.config.teacher_dtype == "bf16"
        self.teacher: GramTeacher = GramTeacher(run.objective.teacher, is_half=is_half)
        if not (hasattr(run, "checkpoints") and run.checkpoints.steps()):  # refused before anything is written
            State().settle(self.config, run.config, step=0)
            self._check_file(run)
        return {MODULE: self.teacher.backbone}

    def _check_file(self, run: Run) -> None:
        if self.config.mode == "ckpt" and self.config.checkpoint is not None:
            try:
                self.teacher.check_file(run, self.config.checkpoint)
            except UsageError as error:
                raise ConfigError(run.config.source, [(f"{TABLE}.checkpoint", str(error))]) from error

    @hookimpl
    def header_lines(self, run: Run) -> list[str]:
        self._settle(run)
        return list(plan_lines(self.config, self.state, run.max_steps, is_late=self._is_late))

    @hookimpl
    def on_start(self, run: Run) -> None:
        self._settle(run)
        state, plan = self.state, self.state.plan
        if plan is None or self.config.mode == "ema":
            self._drop(run)
        elif self.config.mode == "ckpt" and (state.taken_at_step is None or state.checkpoint != self.config.checkpoint):
            self._check_file(run)
            assert self.config.checkpoint is not None
            self.teacher.take_file(run, self.config.checkpoint)
            anew = f"; the refresh count begins anew at 0, was {state.refreshes}" if state.refreshes else ""
            state.checkpoint, state.refreshes = self.config.checkpoint, 0
            self._taken(run, run.step, f"taken from {state.checkpoint}{anew}")
        if plan is not None:
            changes = {"local_weight": plan.local_weight_at, "teacher_momentum": plan.teacher_momentum_at}
            for name in (name for name in changes if name in run.schedules):  # a plugin's objective may have neither
                run.schedules.adjust(name, changes[name])
        if state.candidates and state.taken_at_step is None:
            from bigrun_gram.selection import adopt_candidates, say_other_scores

            adopt_candidates(run, state)
            say_other_scores(run, state, self.config.choose_by)

    @hookimpl(optionalhook=True)
    def rehearse(self, run: Run) -> None:
        """As in the steps with the loss: the Gram teacher is there, whatever its weights (`bigrun plan`)."""
        if self.state.plan is not None and self.config.mode != "ema":
            self.state.taken_at_step = self.state.plan.start_step

    def _settle(self, run: Run) -> None:
        """Everything is restored that there was: now the plan is final."""
        if self._is_settled:
            return
        before = self.state.plan
        self._is_late = self.state.options is None and run.step > 0
        self.state.settle(self.config, run.config, run.step)
        self._is_settled = True
        if before is not None and self.state.plan != before:
            run.event("gram-plan", "Gram anchoring: an option has changed, and the plan with it")

    def _drop(self, run: Run) -> None:
        if self.teacher.is_there:
            self.teacher.drop()
            self.state.taken_at_step = self.state.checkpoint = None
            self.state.refreshes = 0
            run.event("gram-teacher", f"Gram teacher: dropped, the plan of mode = '{self.config.mode}' has none")

    # -- every step -------------------------------------------------------------------------------------------

    @hookimpl
    def before_step(self, run: Run, step: int) -> None:
        state = self.state
        if state.plan is None:
            return
        if state.taken_at_step is None and state.plan.first_candidate_step and step >= state.plan.start_step:
            from bigrun_gram.selection import take_best

            take_best(run, state, self.teacher, choose_by=self.config.choose_by)
        is_ready = self.config.mode == "ema" or state.taken_at_step is not None
        self._weight = state.plan.weight_at(step) if is_ready else 0.0
        run.metrics.record("gram/weight", self._weight)
        if self.config.mode == "ema":
            from bigrun_gram.teacher import keep_moving_patches

            keep_moving_patches(run, self._weight > 0)

    @hookimpl
    def loss_terms(self, run: Run, batch: Batch, outputs: Outputs) -> Mapping[str, torch.Tensor]:
        if self._weight == 0:
            return {}
        from bigrun_gram.loss import gram_loss, select
        from bigrun_gram.teacher import moving_patches

        student = outputs.global_features.patches  # (G*b, P, D)
        if self.config.mode == "ema":
            anchor = moving_patches(run, batch, outputs)
        else:
            anchor = self.teacher.patches(batch, outputs.global_features.grid)
        student, anchor = (select(tokens, self.config.tokens, outputs.masks) for tokens in (student, anchor))
        loss = gram_loss(student, anchor, self.config.level, negatives=self.config.negatives)
        run.metrics.record("gram/distance", loss)
        return {"gram": self._weight * loss}

    @hookimpl
    def before_update(self, run: Run, step: int) -> None:
        if self._is_candidate(step):
            from bigrun_gram.scores import has_learned

            self._has_learned = has_learned(run)

    def _is_candidate(self, step: int) -> bool:
        """Whether the teacher that this step leaves is kept."""
        state, plan = self.state, self.state.plan
        due = plan.next_candidate(state.candidate_step) if plan else None
        return due is not None and state.taken_at_step is None and step >= due

    @hookimpl
    def after_update(self, run: Run, step: int) -> None:
        state, plan = self.state, self.state.plan
        if plan is None or self.config.mode == "ema":
            return
        if state.taken_at_step is not None:
            if plan.is_refresh(step, state.refreshes, state.taken_at_step):
                state.refreshes += 1
                self._copy_teacher(run, step, f"refresh {state.refreshes}")
        elif plan.snapshot_step is not None:
            if step >= plan.snapshot_step:
                self._copy_teacher(run, step, "snapshot of the teacher taken")
        else:
            self._new_candidate = self._is_candidate(step)

    @hookimpl(trylast=True)
    def after_step(self, run: Run, step: int) -> None:
        """A candidate is scored behind those who measure in this step, and before its checkpoint."""
        if self._new_candidate:
            from bigrun_gram.selection import add_candidate

            self._new_candidate = False
            add_candidate(run, self.state, step, has_learned=self._has_learned, choose_by=self.config.choose_by)

    def _copy_teacher(self, run: Run, step: int, what: str) -> None:
        self.teacher.take(run, run.objective.teacher.backbone.state_dict(), "the teacher")
        self._taken(run, step, f"{what} after step {step}")

    def _taken(self, run: Run, step: int, what: str) -> None:
        self.state.taken_at_step = step
        run.event("gram-teacher", f"Gram teacher: {what}", refreshes=self.state.refreshes)

    @hookimpl
    def on_checkpoint(self, run: Run) -> None:
        """No checkpoint that will be resumed from needs the others: what beats them is in this one."""
        if self.state.candidates:
            from bigrun_gram.selection import shelf_of

            shelf_of(run).sweep({candidate.step for candidate in self.state.candidates})

    # -- state ------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return self.state.to_json()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.state = State.from_json(state)
