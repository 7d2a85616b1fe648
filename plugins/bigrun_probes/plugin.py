"""probes: what the teacher's features know that nobody has taught them, during the run and of any checkpoint."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bigrun import hookimpl
from bigrun.errors import DataError
from bigrun.evaluation.facts import Facts
from bigrun_probes.config import ProbesConfig
from bigrun_probes.health import in_words, section
from bigrun_probes.state import Baselines, State

if TYPE_CHECKING:
    from bigrun.model.vit import VisionTransformer
    from bigrun.run import Run
    from bigrun_probes.probe_set import ProbeSet

__all__ = ["Probes"]

DEAR = 0.02
"""Measurements that take a larger share of the wall time are an event."""


class Probes:
    """Asks about the same images again and again: k-NN, a linear classifier, view retrieval, and patches by masks.

    The values are those of the step in which they are recorded, in its checkpoint too. Every process shows the images
    to the network, since that may be spread over several of them; the main one says what is known of them.
    """

    Config = ProbesConfig
    observer = True
    state_version = 1

    def __init__(self, config: ProbesConfig) -> None:
        self.config = config
        self.state = State()
        self._set: ProbeSet | None = None
        self._pixels: dict[str, float] | None = None
        self._measured_at: float | None = None
        self._was_dear = False
        self._measured_step: int | None = None

    def asked(self, run: Run) -> ProbeSet:
        """The images, chosen on first use. Raises as `ProbeSet.of`."""
        if self._set is None:
            from bigrun_probes.probe_set import ProbeSet

            self._set = ProbeSet.of(run, self.config)
        return self._set

    def measure(self, run: Run, backbone: VisionTransformer | None) -> dict[str, float]:
        """All values of a backbone in eval mode, or of the pixels alone, by metric; none on other processes than the
        main one."""
        from bigrun_probes.measure import measured

        return measured(run, backbone, self.asked(run), self.config)

    def pixels(self, run: Run) -> dict[str, float]:
        """The same of the pixels alone, measured on first use, on the main process."""
        if self._pixels is None:
            self._pixels = self.measure(run, None) if run.is_main else {}
        return self._pixels

    # -- hooks ------------------------------------------------------------------------------------------------

    @hookimpl
    def header_lines(self, run: Run) -> list[str]:
        if self.config.path is None and len(run.dataset) == 0:  # `bigrun check` of a preset before there are images
            return ["probes       no images yet"]
        try:
            return [f"probes       {self.asked(run).summary}"]
        except Exception:
            if run.peers.size == 1:
                raise
            return []  # of several processes only one is here: `on_start` raises it on all

    @hookimpl
    def on_start(self, run: Run) -> None:
        from bigrun_probes.measure import by_chance
        from bigrun_probes.shared import shared_set

        asked = self._set = shared_set(run, self.config, lambda: self.asked(run))
        if self.state.identity != asked.identity:
            if self.state.identity is not None:
                run.event(
                    "probes-changed", "probes: other images or options than before: the best begin anew", "warning"
                )
            begin = self._of_teacher(run) if run.step == 0 else None
            chance = by_chance(asked, self.config) if run.is_main else {}
            self.state = State(asked.identity, Baselines(chance, self.pixels(run), begin))

    @hookimpl
    def after_step(self, run: Run, step: int) -> None:
        """Before those that look at what is recorded in this step, and do so last."""
        if self._is_due(run, step):
            self._record(run, step)

    @hookimpl(specname="after_step", trylast=True)
    def after_step_of_others(self, run: Run, step: int) -> None:
        """Another plugin may have asked for a checkpoint meanwhile: whoever is asked first does not decide."""
        if self._measured_step != step and self._is_due(run, step):
            self._record(run, step)

    def _record(self, run: Run, step: int) -> None:
        from bigrun_probes.measure import wait_for

        self._measured_step = step
        wait_for(run.device)  # what the step still has to do is no cost of this
        began, why = time.perf_counter(), "the features are not finite"
        try:
            values = self._of_teacher(run)
        except DataError as error:  # of a disk that may be back at the next checkpoint
            values, why = {}, str(error)
        if not run.is_main:
            return
        for name, value in values.items():
            run.metrics.record(name, value)
        self.state.add(step, values)
        if not values:
            run.event("probes", f"probes: nothing is measured: {why}", "warning")
        self._say_what_it_costs(run, began)

    @hookimpl
    def on_finish(self, run: Run) -> None:
        if self.state.latest and run.is_main:
            facts: dict[str, Any] = {name: reading.value for name, reading in self.state.latest.items()}
            run.event("probes", "\n".join(["probes at the end:", *in_words(self.state)]), **facts)

    @hookimpl
    def measurements(self, run: Run) -> Mapping[str, float]:
        return self._of_teacher(run)

    @hookimpl(optionalhook=True)
    def health_section(self, run: Run) -> dict[str, Any]:
        """The report's section."""
        return section(self.state, self.config.retrieval_warn_ratio, Facts.of(run.config).warmup_steps)

    # -- how --------------------------------------------------------------------------------------------------

    def _is_due(self, run: Run, step: int) -> bool:
        every = self.config.every_steps
        return run.finished or (run.saver.due(step) if every is None else step % every == 0)

    def _of_teacher(self, run: Run) -> dict[str, float]:
        with run.objective.evaluation() as backbone:
            return self.measure(run, backbone)

    def _say_what_it_costs(self, run: Run, began: float) -> None:
        """Once, as a share of the time since the measurement before: nobody knows earlier how often it is asked."""
        before, now = self._measured_at, time.perf_counter()
        self._measured_at = now
        share = 0.0 if before is None else (now - began) / max(now - before, 1e-9)
        if share > DEAR and not self._was_dear and not run.finished:
            self._was_dear = True
            run.event(
                "probes-dear",
                f"probes take {share:.1%} of the time (more than {DEAR:.0%}): ask less often (every_steps), or about "
                f"fewer images (images = {self.config.images})",
                "warning",
                fraction=share,
            )

    def state_dict(self) -> dict[str, Any]:
        return self.state.to_json()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.state = State.from_json(state)
