"""feature-health: whether the features are those of a network that learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bigrun import hookimpl
from bigrun.anomaly import Anomaly
from bigrun.evaluation.facts import Facts
from bigrun_features.board import TWICE, Board, Change
from bigrun_features.config import HealthConfig
from bigrun_features.indicators import METRIC, healthy, title
from bigrun_features.norms import Norms
from bigrun_features.section import cost_line, section
from bigrun_features.signs import FAIL, OK, gradients, signs

if TYPE_CHECKING:
    from bigrun.events import Level
    from bigrun.run import Run
    from bigrun_features.cost import Cost
    from bigrun_features.kept import KeptImages

__all__ = ["FeatureHealth"]

GIB = 2**30


class FeatureHealth:
    """Shows the same images to teacher and student now and then, and judges what they make of them: `health/`
    metrics, an event when an indicator's status changes, a section of the health report, diagnoses for
    anomaly-guard. Every process looks, since a network may be spread over several of them; the main one judges."""

    Config = HealthConfig
    observer = True

    def __init__(self, config: HealthConfig) -> None:
        self.config = config
        self.norms = Norms()
        self.board: Board | None = None
        self.every_steps: int | None = None
        self.about = ""
        self._images: KeptImages | None = None
        self._cost: Cost | None = None
        self._is_blind = False
        self._told_missing: set[int] = set()
        self._state: Mapping[str, Any] | None = None

    @hookimpl
    def header_lines(self, run: Run) -> list[str]:
        from bigrun_features.cadence import judged_looks

        self._begin(run)
        assert self.board is not None
        assert self.every_steps is not None
        settled, end = self.board.settled_step, run.max_steps
        lines = [f"features     {self.about}; judged from step {settled + 1} on"]
        if end is not None and (looks := judged_looks(settled, self.every_steps, end)) < TWICE:
            lines.append(
                f"warning      features are never judged in this run, which ends at step {end}: {TWICE} looks after "
                f"step {settled} are needed, and there are {looks}; plugins.feature-health: fewer settle_steps or "
                "every_steps"
            )
        return lines

    @hookimpl
    def on_start(self, run: Run) -> None:
        self._begin(run)

    def _begin(self, run: Run) -> None:
        """Once: what the configuration says, and what a checkpoint does."""
        from bigrun.evaluation.part import Part
        from bigrun_features.cadence import image_count, interval_steps
        from bigrun_features.cost import Cost

        if self.board is not None:
            return
        facts = Facts.of(run.config)
        known = signs(self.config, is_softmax_centred=facts.is_softmax_centred)
        known += gradients(run.objective.trained_modules(), self.config.gradient_factor)
        self.board = Board(known, facts.warmup_steps + self.config.settle_steps)
        if self._state is not None:
            self.board.load_state_dict(self._state["board"])
            self.norms.load_state_dict(self._state["norms"])
        self._cost = Cost()
        self.every_steps = interval_steps(self.config, run)
        where = "the validation part" if Part.of(run).is_validation else "the training data"
        self.about = f"{image_count(self.config, run)} images of {where}, every {self.every_steps} steps"

    # -- looking ----------------------------------------------------------------------------------------------

    @hookimpl
    def after_step(self, run: Run, step: int) -> None:
        assert self.every_steps is not None
        if step % self.every_steps == 0 or step == run.max_steps:
            self._look(run, step)

    def _look(self, run: Run, step: int) -> None:
        from bigrun_features.look import look

        assert self._cost is not None
        with self._cost.measured(run.device):
            self._images = self._images or self._fixed(run, GIB * self.config.keep_gib)
            found = look(run, self._images)
        if not run.is_main:
            return
        if found is None:
            self._say_blind(run, self._images)
            return
        self._is_blind = False
        self._say_missing(run, self._images)
        found.values.update(self.norms.take())
        for name, value in found.finite().items():
            run.metrics.record(METRIC + name, value)
        assert self.board is not None
        for change in self.board.judge(step, found):
            self._say(run, change)
        if step % (self.every_steps or 1) == 0 and self._cost.is_news():  # the last step's look may follow another
            self._say_cost(run, self._cost)

    def _fixed(self, run: Run, budget_bytes: float) -> KeptImages:
        from bigrun.evaluation.images import FixedImages
        from bigrun_features.cadence import image_count
        from bigrun_features.kept import KeptImages

        return KeptImages(FixedImages.spread(run, image_count(self.config, run)), budget_bytes)

    @hookimpl
    def on_metrics(self, metrics: Mapping[str, float]) -> None:
        self.norms.add(metrics)

    @hookimpl
    def measurements(self, run: Run) -> Mapping[str, float]:
        """Of a checkpoint that is visited; of images that cannot be read there is nothing to say."""
        from bigrun_features.look import look

        images = self._fixed(run, 0.0)
        found = look(run, images)
        if found is not None:
            self._say_missing(run, images)
        return {} if found is None else {METRIC + name: value for name, value in found.finite().items()}

    # -- telling ----------------------------------------------------------------------------------------------

    def _say(self, run: Run, change: Change) -> None:
        assert self.board is not None
        assert self.board.measured is not None
        level: Level = "info" if change.now == OK else "error" if change.now == FAIL else "warning"
        range_ = healthy(change.indicator, self.config, self.board.measured)
        value = "not a finite number" if change.value is None else f"{change.value:.4g}"
        run.event(
            "feature-health",
            f"{title(change.indicator)}: {value} (healthy: {range_}); {change.now}, was {change.was}: {change.why}",
            level,
            indicator=METRIC + change.indicator,
            was=change.was,
            now=change.now,
            value=change.value,
            healthy=range_,
            why=change.why,
            advice=change.advice,
            since=change.since,
        )

    def _say_blind(self, run: Run, images: KeptImages) -> None:
        if not self._is_blind:
            self._is_blind = True
            run.event(
                "feature-health-blind",
                f"feature-health: none of its images can be read{images.elsewhere()}; it says nothing until one can",
                "warning",
            )

    def _say_missing(self, run: Run, images: KeptImages) -> None:
        """When there are some that were not missing before."""
        if images.missing <= self._told_missing:
            return
        self._told_missing |= images.missing
        run.event(
            "feature-health-incomplete",
            f"feature-health: {len(images.missing):,} of {images.count:,} images cannot be read{images.elsewhere()}: "
            "the numbers are of the others, until they can",
            "warning",
            missing=len(images.missing),
            images=images.count,
        )

    def _say_cost(self, run: Run, cost: Cost) -> None:
        run.event(
            "feature-health-cost",
            f"feature-health: {cost_line(cost.seconds, cost.share)}; fewer images or a larger every_steps "
            "(plugins.feature-health) make it less, and keep_gib, if images are read again at each look",
            "warning",
            seconds=cost.seconds,
            share=cost.share,
        )

    @hookimpl(optionalhook=True)
    def diagnoses(self) -> Sequence[Anomaly]:
        """What anomaly-guard asks."""
        return [] if self.board is None else self.board.diagnoses()

    @hookimpl(optionalhook=True)
    def health_section(self) -> dict[str, Any] | None:
        """What the health report asks."""
        if self.board is None or self._cost is None:
            return None
        known = cost_line(self._cost.seconds, self._cost.share) if self._cost.seconds else None
        return section(self.config, self.board, self.about, known)

    # -- state ------------------------------------------------------------------------------------------------

    def state_dict(self) -> Mapping[str, Any] | None:
        if self.board is None:
            return self._state
        return {"board": self.board.state_dict(), "norms": self.norms.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._state = state
