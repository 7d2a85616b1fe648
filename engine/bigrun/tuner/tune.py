"""From a preset to the settings with which it trains fastest here. Torch-free: what needs torch is in a child."""

from __future__ import annotations

import platform
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs

from bigrun.activation import activate
from bigrun.config import Config, Document
from bigrun.devices import DeviceFacts
from bigrun.entry_points import installed
from bigrun.errors import BigrunError, ExitCode
from bigrun.tuner.isolation import Answer, ask
from bigrun.tuner.ledger import Ledger, key_of
from bigrun.tuner.recipe import Recipe, compiling
from bigrun.tuner.search import FLAT, search
from bigrun.tuner.space import Space, Wishes, space_of
from bigrun.tuner.trial import Outcome, Settings
from bigrun.tuner.verdict import verdict
from bigrun.version import __version__

__all__ = ["Effort", "Row", "Tuner", "Tuning"]

WARM_UP_STEPS = 2
SCRATCH = ".trial"


class LookError(BigrunError):
    """The run could not be built at all, with the exit code that it would have ended with."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.message)
        self.exit_code = ExitCode(answer.exit_code)


@attrs.frozen
class Effort:
    """How long each trial is."""

    steps: int = 10
    inflate: int = 1
    """How many times as long the data set seems to be."""
    trial_seconds: float = 600.0
    """A trial that takes longer is ended."""
    retry: bool = False
    """Whether what has failed is tried again."""


@attrs.frozen
class Row:
    """A trial in the order in which they were made."""

    settings: Settings
    outcome: Outcome
    is_remembered: bool
    """Made by an earlier start of the command."""
    round: int = 1
    """2: made again, since a machine that is busy otherwise may have made the first one fast or slow."""


@attrs.frozen
class Tuning:
    """What was found."""

    recipe: Recipe
    device: DeviceFacts
    images: int
    effective_batch: int
    effort: Effort
    start: Settings
    """Of the preset as it is."""
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    best: Row | None
    verdict: str | None
    """What holds the best one up."""


class Tuner:
    """Makes trials, each in a process of its own, and keeps them in a ledger."""

    def __init__(
        self, document: Document, directory: Path, effort: Effort, tell: Callable[[Row], None] = lambda row: None
    ) -> None:
        """
        Args:
            directory: of the ledger; made if it is not there.
            tell: hears of each trial when it is over.

        Raises:
            BigrunError: as the run itself would before it looks for a device.
        """
        self.config, _ = activate(document)
        self.recipe = Recipe(document, compiling(self.config.plugins))
        self.directory, self.effort, self.tell = directory, effort, tell
        self.rows: list[Row] = []
        self.notes: list[str] = []

    def run(self, wishes: Wishes) -> Tuning:
        """Look at the machine, then search.

        Raises:
            BigrunError: as the run itself would until it has its images, or the ledger cannot be written.
        """
        found = self.look()
        self.device = DeviceFacts.from_facts(found["device"])
        config = as_on_device(self.config, found)
        space, self.notes = space_of(self.recipe, config, self.device, wishes, sorted(installed()))
        self.ledger = Ledger(self.directory)
        try:
            best = search(space, self.speed, lambda mode: self.largest(space, mode))
            best = best and self.confirmed(space.start, best)
        finally:
            self.ledger.close()
        row = next((row for row in reversed(self.rows) if row.settings == best), None)
        return Tuning(
            self.recipe,
            self.device,
            found["images"],
            config.data.effective_batch,
            self.effort,
            space.start,
            tuple(self.rows),
            tuple(self.notes),
            row,
            self.judge(config, row) if row is not None else None,
        )

    def confirmed(self, start: Settings, best: Settings) -> Settings:
        """The best, if it is faster than the preset's own settings once more; else these."""
        known = [row for row in self.rows if row.settings == start and row.outcome.status == "ok"]
        if best == start or not known:
            return best
        before, now = self.speed(start, 2), self.speed(best, 2)
        if before is None or (now is not None and now >= (1 + FLAT) * before):
            return best
        gain = "it failed" if now is None else f"{now / before - 1:+.1%}"
        self.notes.append(
            f"{best.line()}: not confirmed by a second trial beside the preset's own settings ({gain}), which stay; a "
            "machine that is busy otherwise tells little"
        )
        return start

    def judge(self, config: Config, row: Row) -> str:
        data = attrs.evolve(config.data, micro_batch=row.settings.micro_batch, workers=row.settings.workers)
        return verdict(row.outcome, data, self.device.host.cpu.usable_cores)

    def look(self) -> Mapping[str, Any]:
        order = {"what": "look", "document": as_facts(self.recipe.document), "directory": str(self.scratch)}
        answer = ask(order, self.effort.trial_seconds)
        if answer.status != "ok":
            raise LookError(answer)
        return answer.facts

    @property
    def scratch(self) -> Path:
        """The run directory of a trial; nothing of it remains."""
        return self.directory / SCRATCH

    def largest(self, space: Space, mode: str) -> int | None:
        """The largest micro-batch that should fit; None where that cannot be said; 0 where trials have failed for other
        reasons than memory, which a mode that needs less of it would not help."""
        if self.rows and all(row.outcome.status in ("error", "timeout") for row in self.rows):
            return 0
        order = {
            "what": "find_largest",
            "document": as_facts(self.recipe.document),
            "device": self.device.backend,
            "mode": mode,
            "sizes": space.micro_batches,
            "memory_bytes": self.device.total_bytes,
        }
        key = self.key(order)
        found = self.ledger.get(key)
        if found is None:
            answer = ask(order, self.effort.trial_seconds)
            if answer.status != "ok":
                self.notes.append(f"which micro-batch fits could not be predicted ({answer.message}): trials say it")
                return None
            found = dict(answer.facts)
            self.ledger.put(key, found)
        largest = int(found["largest"])
        if largest < space.micro_batches[-1]:
            said = f"micro-batch {largest} is the largest that should fit" if largest else "no micro-batch should fit"
            self.notes.append(f"activation checkpointing {mode}: {said}, by `bigrun plan`")
        return largest

    def speed(self, settings: Settings, number: int = 1) -> float | None:
        """Images per second of a trial, made now or before; None if it failed.

        Args:
            number: of the round.
        """
        order = {
            "what": "measure",
            "document": as_facts(self.recipe.with_settings(settings)),
            "steps": self.effort.steps,
            "warm_up_steps": WARM_UP_STEPS,
            "inflate": self.effort.inflate,
        }
        key = self.key(order | {"round": number})
        known = self.ledger.get(key)
        if known is not None and self.effort.retry and known["outcome"]["status"] != "ok":
            known = None
        outcome = Outcome(**known["outcome"]) if known is not None else self.measure(order)
        if known is None:
            self.ledger.put(key, {"settings": attrs.asdict(settings), "outcome": outcome.as_facts()})
        self.rows.append(Row(settings, outcome, known is not None, number))
        self.tell(self.rows[-1])
        return outcome.images_per_second

    def measure(self, order: Mapping[str, Any]) -> Outcome:
        began = time.monotonic()
        shutil.rmtree(self.scratch, ignore_errors=True)  # of a killed process
        try:
            answer = ask({**order, "directory": str(self.scratch)}, self.effort.trial_seconds)
        finally:
            shutil.rmtree(self.scratch, ignore_errors=True)
        seconds = time.monotonic() - began
        if answer.status != "ok":
            return Outcome(answer.status, answer.message, seconds=seconds)
        facts = dict(answer.facts)
        return Outcome.measured(facts.pop("milliseconds"), seconds=seconds, **facts)

    def key(self, order: Mapping[str, Any]) -> str:
        """The same order on the same machine with the same versions."""
        active = {name: plugin.version for name, plugin in installed().items()}
        versions = {"bigrun": __version__, "python": platform.python_version(), "plugins": active}
        return key_of({"order": order, "versions": versions, "device": self.device.as_facts()})


def as_facts(document: Document) -> dict[str, Any]:
    return {"source": document.source, "name": document.name, "tables": document.tables}


def as_on_device(config: Config, found: Mapping[str, Any]) -> Config:
    """With what plugins have chosen for the device."""
    return attrs.evolve(
        config,
        data=attrs.evolve(config.data, **found["data"]),
        hardware=attrs.evolve(config.hardware, **found["hardware"]),
    )
