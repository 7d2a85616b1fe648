"""From a preset to the settings with which it trains fastest here. Torch-free: what needs torch is in a child."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs

from bigrun.activation import activate
from bigrun.config import Config, Document
from bigrun.devices import DeviceFacts
from bigrun.entry_points import installed
from bigrun.errors import BigrunError, ExitCode
from bigrun.planner.flops import step_flops
from bigrun.tuner.child import as_facts
from bigrun.tuner.isolation import Answer
from bigrun.tuner.recipe import MICRO_BATCHES, Recipe
from bigrun.tuner.search import Search
from bigrun.tuner.space import Space, Wishes, space_of
from bigrun.tuner.trial import Settings
from bigrun.tuner.trials import Effort, Machine, Row, Trials, ask_in
from bigrun.tuner.verdict import verdict

__all__ = ["Tuner", "Tuning"]

WHOLE_STEPS = 2
"""Of a trial with the whole effective batch."""


class LookError(BigrunError):
    """The run could not be built at all; with the exit code that it would have ended with."""

    def __init__(self, answer: Answer) -> None:
        what = "" if answer.status == "error" else "looking at the device and the data set: "
        super().__init__(f"{what}{answer.message}")
        self.exit_code = ExitCode(answer.exit_code)


@attrs.frozen
class Tuning:
    """What was found."""

    recipe: Recipe
    machine: Machine
    effective_batch: int
    effort: Effort
    start: Settings
    """Of the preset as it is."""
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    best: Row | None
    """The last of the short trials of the best settings."""
    verdict: str | None
    """What holds the best one up."""
    flops_per_image: float | None = None
    """Of the model; None with an objective of a plugin."""

    @property
    def whole(self) -> Row | None:
        """The trial of the best settings whose steps were those of the run; None if there was none."""
        rows = [row for row in self.rows if row.is_whole and row.outcome.status == "ok"]
        return next((row for row in rows if self.best is not None and row.settings == self.best.settings), None)

    @property
    def images_per_second(self) -> float | None:
        """Of the best settings, over all their trials."""
        return None if self.best is None else statistics.mean(self.speeds(self.best.settings))

    @property
    def gain(self) -> float | None:
        """How many times as fast as the preset's own settings the best ones are, over all their trials; None where
        these are the best, or have failed."""
        if self.images_per_second is None or self.best is None or self.best.settings == self.start:
            return None
        before = self.speeds(self.start)
        return self.images_per_second / statistics.mean(before) if before else None

    @property
    def spread(self) -> float | None:
        """By how much of the slower one two trials of the same settings differed at most; None where none were made
        twice."""
        speeds = [self.speeds(settings) for settings in {row.settings for row in self.rows}]
        return max((max(each) / min(each) - 1 for each in speeds if len(each) > 1), default=None)

    def speeds(self, settings: Settings) -> list[float]:
        rows = [row for row in self.rows if row.settings == settings and not row.is_whole]
        return [row.outcome.images_per_second for row in rows if row.outcome.images_per_second is not None]


class Tuner:
    """Looks at the machine, searches, and tries what it has found as it will run."""

    def __init__(
        self,
        document: Document,
        directory: Path,
        effort: Effort,
        tell: Callable[[Row], None] = lambda row: None,
        note: Callable[[str, str], None] = lambda name, text: None,
    ) -> None:
        """
        Args:
            directory: of the ledger; made if it is not there.
            tell: hears of each trial when it is over.
            note: hears what was found and decided meanwhile: of which kind, and what.

        Raises:
            BigrunError: as the run itself would before it looks for a device.
        """
        self.document, self.directory, self.effort, self.tell, self.heard = document, directory, effort, tell, note
        self.config, _ = activate(document)
        self.redactor = self.config.redactor()
        self.notes: list[str] = []

    def run(self, wishes: Wishes) -> Tuning:
        """Look at the machine, then search.

        Raises:
            BigrunError: as the run itself would until it has its images, or the ledger cannot be written.
        """
        found = self.look()
        machine = Machine(DeviceFacts.from_facts(found["device"]), found["threads"], found["images"])
        config = as_on_device(self.config, found)
        recipe = Recipe.of(self.document, config)
        space, notes = space_of(recipe, config, machine.device, wishes, sorted(installed()))
        if self.effort.inflate > 1 and found["has_order"]:
            notes.append("--inflate: has no effect, the data set has an order of its own, which has no end")
        trials = Trials(recipe, self.directory, self.effort, machine, self.redactor, self.tell)
        with trials.opened():
            self.heard("device", machine.device.line())
            self.heard("search", space.line())
            for note in notes:
                self.note(note)
            search = Search(space, trials.together, lambda mode: self.largest(trials, space, mode), self.note)
            best = search.run()
            best = best and self.proven(trials, best, space, config.data.effective_batch)
        row = None if best is None else trials.newest_row(best)
        return Tuning(
            recipe,
            machine,
            config.data.effective_batch,
            self.effort,
            space.start,
            tuple(trials.rows),
            tuple(self.notes),
            row,
            None if row is None else self.judge(config, trials, row),
            flops_of(config),
        )

    def note(self, text: str) -> None:
        self.notes.append(text)
        self.heard("note", text)

    def look(self) -> Mapping[str, Any]:
        answer = ask_in(
            self.directory, {"what": "look", "document": as_facts(self.document)}, self.effort.trial_seconds
        )
        if answer.status != "ok":
            raise LookError(attrs.evolve(answer, message=self.redactor.text(answer.message)))
        return answer.facts

    def largest(self, trials: Trials, space: Space, mode: str) -> int | None:
        """The largest micro-batch that should fit; None where that cannot be said; 0 where trials have failed for other
        reasons than memory, which a mode that needs less of it would not help."""
        if trials.rows and all(row.outcome.status in ("error", "timeout") for row in trials.rows):
            return 0
        order = {
            "what": "find_largest",
            "document": as_facts(self.document),
            "device": trials.machine.device.as_facts(),
            "mode": mode,
            "sizes": space.micro_batches,
        }
        answer = trials.predicted(order)
        if answer.status != "ok":
            self.note(f"which micro-batch fits could not be predicted ({answer.message}): trials say it")
            return None
        largest = int(answer.facts["largest"])
        if largest < space.micro_batches[-1]:
            said = f"micro-batch {largest} is the largest that should fit" if largest else "no micro-batch should fit"
            self.note(f"activation checkpointing {mode}: {said}, by `bigrun plan`")
        return largest

    def proven(self, trials: Trials, best: Settings, space: Space, effective_batch: int) -> Settings | None:
        """The best settings, or those with a smaller micro-batch, with which a step of the run has room: what all its
        micro-batches have in common is on the device at once, and a short trial has two of them. None if none has."""
        for size in (size for size in reversed(space.micro_batches) if size <= best.micro_batch):
            settings = attrs.evolve(best, micro_batch=size)
            if effective_batch // size <= MICRO_BATCHES:
                return settings
            speed = trials.newest(settings).images_per_second
            if speed is None:
                continue
            seconds = WHOLE_STEPS * effective_batch / speed
            if seconds > self.effort.trial_seconds:
                unproven = f"two would take {seconds:.0f} s of --trial-seconds {self.effort.trial_seconds:g}"
            else:
                (outcome,) = trials.together([settings], is_whole=True)
                if outcome.status == "ok":
                    return settings
                unproven = outcome.message
                if outcome.status in ("out-of-memory", "crash"):
                    self.note(f"micro-batch {size}: no step of {effective_batch} images ({outcome.status})")
                    continue
            self.note(
                f"steps of {effective_batch} images were not tried ({unproven}): `bigrun plan` says what they need"
            )
            return settings
        self.note(
            f"no step of {effective_batch} images has room: --set hardware.activation_checkpointing=full needs less"
        )
        return None

    def judge(self, config: Config, trials: Trials, row: Row) -> str:
        mine = row.settings
        data = attrs.evolve(config.data, micro_batch=mine.micro_batch, workers=mine.workers)
        others = [row.settings for row in trials.rows if row.settings.micro_batch == mine.micro_batch]
        were_tried = any(other.workers > mine.workers for other in others)
        cores = trials.machine.device.host.cpu.usable_cores
        return verdict(row.outcome, data, cores, more_were_tried=were_tried)


def as_on_device(config: Config, found: Mapping[str, Any]) -> Config:
    """With what plugins have chosen for the device."""
    return attrs.evolve(
        config,
        data=attrs.evolve(config.data, **found["data"]),
        hardware=attrs.evolve(config.hardware, **found["hardware"]),
    )


def flops_of(config: Config) -> float | None:
    """As `bigrun plan` counts them, without frozen networks."""
    if "objective" in config.replaced:
        return None
    return step_flops(config.model, config.views, kept_fraction=1 - config.model.drop_path_fraction)
