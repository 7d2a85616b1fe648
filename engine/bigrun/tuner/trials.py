"""Trials, each in a process of its own, and remembered. Torch-free."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from bigrun.devices import DeviceFacts
from bigrun.entry_points import installed
from bigrun.redaction import Redactor
from bigrun.tuner.child import as_facts
from bigrun.tuner.isolation import Answer, ask
from bigrun.tuner.ledger import Ledger, key_of
from bigrun.tuner.recipe import MICRO_BATCHES, NEVER, Recipe
from bigrun.tuner.trial import Outcome, Settings
from bigrun.version import __version__

__all__ = ["Effort", "Machine", "Row", "Trials", "ask_in"]

SCRATCH = ".trial-"
VARIABLES = (
    *("CUDA_", "HIPBLASLT_", "HIP_", "HSA_", "MIOPEN_", "MKL_", "NVIDIA_", "OMP_", "PYTORCH_", "ROCBLAS_"),
    *("TORCHINDUCTOR_", "TORCH_"),
)
"""How the names of environment variables begin on which it may depend how fast a trial is, and what fits."""


@attrs.frozen
class Effort:
    """How long each trial is."""

    steps: int = 10
    seconds: float = 3.0
    """That are measured at least: a GPU takes a while until it is as fast as it will be."""
    inflate: int = 1
    """How many times as long the data set seems to be."""
    trial_seconds: float = 600.0
    """A trial that takes longer is ended."""
    retry: bool = False
    """Whether what has failed is tried again."""


@attrs.frozen
class Machine:
    """What was found where the run is to train."""

    device: DeviceFacts
    threads: int
    """Of torch."""
    images: int
    """Of the data set."""


@attrs.frozen
class Row:
    """A trial in the order in which they were made."""

    settings: Settings
    outcome: Outcome
    is_remembered: bool = False
    """Made by an earlier start of the command."""
    round: int = 1
    """Of the trials of these settings, which one."""
    is_whole: bool = False
    """Whether its steps have all micro-batches of the run's."""


@attrs.define
class Trials:
    """Makes trials of a recipe."""

    recipe: Recipe
    directory: Path
    """Of the ledger; a trial's run directory is made there, and removed."""
    effort: Effort
    machine: Machine
    redactor: Redactor
    tell: Callable[[Row], None] = lambda row: None
    """Hears of each trial when it is over."""
    rows: list[Row] = attrs.field(factory=list, init=False)
    ledger: Ledger = attrs.field(init=False)

    @contextlib.contextmanager
    def opened(self) -> Iterator[Trials]:
        """With their ledger.

        Raises:
            UsageError: it cannot be written, or another process uses it.
        """
        self.ledger = Ledger(self.directory)
        try:
            for left in self.directory.glob(f"{SCRATCH}*"):  # by a killed process
                shutil.rmtree(left, ignore_errors=True)
            yield self
        finally:
            self.ledger.close()

    def together(self, several: Sequence[Settings], *, is_whole: bool = False) -> list[Outcome]:
        """Trials of these settings, made now or before: all of them are made anew if one of them is not known, for what
        stands side by side is to be measured so."""
        numbers = [1 + sum((row.settings, row.is_whole) == (each, is_whole) for row in self.rows) for each in several]
        orders = [self.order(each, number, is_whole) for each, number in zip(several, numbers, strict=True)]
        known = [self.known(order) for order in orders]
        outcomes = []
        for settings, number, order, before in zip(several, numbers, orders, known, strict=True):
            outcome = self.measure(order) if before is None or None in known else before
            self.rows.append(Row(settings, outcome, outcome is before, number, is_whole))
            self.tell(self.rows[-1])
            outcomes.append(outcome)
        return outcomes

    def newest(self, settings: Settings) -> Outcome:
        """Of the short trials of these settings; one is made if there is none."""
        row = self.newest_row(settings)
        return self.together([settings])[0] if row is None else row.outcome

    def newest_row(self, settings: Settings) -> Row | None:
        rows = [row for row in self.rows if row.settings == settings and not row.is_whole]
        return rows[-1] if rows else None

    def order(self, settings: Settings, number: int, is_whole: bool) -> dict[str, Any]:
        length = {"steps": self.effort.steps, "seconds": self.effort.seconds}
        # The states of the optimizer are there from the second step on.
        whole = {"warm_up_steps": 1, "steps": 1, "patience_seconds": 0.0}
        return {
            "what": "measure",
            "document": as_facts(self.recipe.with_settings(settings)),
            "length": whole if is_whole else length,
            "micro_batches": NEVER if is_whole else MICRO_BATCHES,
            "inflate": self.effort.inflate,
            "round": number,
        }

    def known(self, order: Mapping[str, Any]) -> Outcome | None:
        """How a trial ended that was made before; None if it is to be made (again)."""
        answer = self.ledger.get(self.key(order))
        if answer is None:
            return None
        try:
            outcome = Outcome(**answer["outcome"])
        except (KeyError, TypeError):  # of another hand
            return None
        had_less = outcome.status == "timeout" and outcome.seconds < self.effort.trial_seconds
        return None if had_less or (self.effort.retry and outcome.status != "ok") else outcome

    def measure(self, order: Mapping[str, Any]) -> Outcome:
        began = time.monotonic()
        answer = self.ask({name: value for name, value in order.items() if name != "round"})
        seconds = time.monotonic() - began
        if answer.status == "ok":
            outcome = Outcome.measured(**answer.facts, seconds=seconds)
        else:
            outcome = Outcome(answer.status, answer.message, seconds=seconds)
        self.ledger.put(self.key(order), {"outcome": outcome.as_facts()})
        return outcome

    def predicted(self, order: Mapping[str, Any]) -> Answer:
        """The answer to an order that has no run; remembered."""
        found = self.ledger.get(self.key(order))
        if found is not None:
            return Answer("ok", found)
        answer = self.ask(order)
        if answer.status == "ok":
            self.ledger.put(self.key(order), answer.facts)
        return answer

    def ask(self, order: Mapping[str, Any]) -> Answer:
        answer = ask_in(self.directory, order, self.effort.trial_seconds)
        return attrs.evolve(answer, message=self.redactor.text(answer.message))

    def key(self, order: Mapping[str, Any]) -> str:
        """The same order on the same machine with the same versions, and the same environment for torch."""
        plugins = {name: plugin.version for name, plugin in installed().items()}
        versions = {"bigrun": __version__, "python": platform.python_version(), "plugins": plugins}
        machine = attrs.asdict(self.machine, recurse=False) | {"device": self.machine.device.as_facts()}
        environment = {name: self.redactor.text(value) for name, value in variables_of(os.environ).items()}
        return key_of({"order": order, "versions": versions, "machine": machine, "environment": environment})


def variables_of(environment: Mapping[str, str]) -> dict[str, str]:
    """Those that torch and its libraries read."""
    return {name: value for name, value in environment.items() if name.startswith(VARIABLES)}


def ask_in(directory: Path, order: Mapping[str, Any], limit_seconds: float) -> Answer:
    """As `ask`, with a run directory of which nothing remains."""
    scratch = directory / f"{SCRATCH}{os.getpid()}"
    try:
        needs_directory = order["what"] in ("look", "measure")
        return ask({**order, "directory": str(scratch)} if needs_directory else order, limit_seconds)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
