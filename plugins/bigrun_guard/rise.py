"""A loss far above the run's own beginning: a network that knows nothing does better."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from bigrun.anomaly import Anomaly
from bigrun.evaluation.facts import Facts
from bigrun_guard.conditions import Conditions, Over
from bigrun_guard.config import GuardConfig
from bigrun_guard.diagnosis import anomaly

__all__ = ["BEGINNING_STEPS", "KIND", "RECENT_STEPS", "SMALL", "Rise"]

KIND = "divergence"
BEGINNING_STEPS, RECENT_STEPS = 10, 20
SMALL = 0.01
"""A term with less than this part of the loss at the beginning is one whose weight rises later, as with a ramp, or one
that is not at its highest then, as KoLeo: it is left out like one that begins later."""
TERM, EVIDENCE = "loss/", ("loss_now", "loss_at_start")


class Rise:
    """Judges the loss after every update, from the first step on: with the engine's own objective and heads of random
    weights it begins where it is for uniform predictions, near ln K, and nothing that is well goes far above that.

    A loss whose beginning was not seen, because heads were loaded, a checkpoint of an older version was continued, or
    options changed that the loss depends on, is measured against the first steps that were seen, or ln K where that is
    more.
    """

    def __init__(self, config: GuardConfig, facts: Facts, basis: str = "") -> None:
        """`basis`: a text that changes with the options on which the size of the loss depends."""
        self.factor = config.divergence_loss_factor
        self.facts = facts
        self.basis = basis
        self.conditions = Conditions(config.remind_steps, config.hold_steps)
        self.over: list[Over] = []
        self._forget()
        self._seen: dict[str, float] = {}

    def _forget(self) -> None:
        self.first: list[dict[str, float]] = []
        """Losses of the first steps, until there are enough."""
        self.from_start = False
        """Whether these begin at step 1."""
        self.terms: list[str] = []
        """Terms that count, where any were told apart."""
        self.reference: float | None = None
        self.recent: deque[float] = deque(maxlen=RECENT_STEPS)

    def see(self, values: Mapping[str, float]) -> None:
        """`loss` and `loss/TERM` of a step that is about to update the weights."""
        losses = {name: value for name, value in values.items() if name == "loss" or name.startswith(TERM)}
        self._seen = {name: value for name, value in losses.items() if math.isfinite(value)}

    def judge(self, step: int) -> Iterator[Anomaly]:
        """The step that was seen last has updated the weights."""
        values, self._seen = self._seen, {}
        ceiling = self.facts.ceiling
        if ceiling is None or "loss" not in values:
            return
        if self.reference is None:
            self._begin(step, values, ceiling)
            return
        self.recent.append(self._counted(values))
        if len(self.recent) < RECENT_STEPS or self.reference <= 0:
            return
        now = statistics.median(self.recent)
        if now <= self.factor * self.reference:
            onset = self.conditions.ends(KIND, step)
            self.over += [] if onset is None else [Over(KIND, onset, EVIDENCE)]
            return
        onset = self.conditions.holds(KIND, step, hold_steps=0)
        if onset is not None:
            yield self._anomaly(step, now, onset)

    def _anomaly(self, step: int, now: float, onset: int) -> Anomaly:
        assert self.reference is not None
        since = "" if onset == step else f", since step {onset}"
        where = "at the beginning, when the network knew nothing" if self.from_start else "when it was seen first"
        message = (
            f"the loss is {now / self.reference:.1f} times what it was {where}: {now:.4g} instead of "
            f"{self.reference:.4g}{since}"
        )
        evidence = dict(zip(EVIDENCE, (now, self.reference), strict=True))
        return anomaly(KIND, step, message, evidence, onset=onset)

    def _begin(self, step: int, values: dict[str, float], ceiling: float) -> None:
        if not self.first:
            self.from_start = step == 1 and self.facts.is_fresh
        self.first.append(values)
        if len(self.first) < BEGINNING_STEPS:
            return
        steady = [name for name in values if name.startswith(TERM) and all(name in row for row in self.first)]
        total = statistics.median(row["loss"] for row in self.first)
        middle = {name: statistics.median(row[name] for row in self.first) for name in steady}
        self.terms = [name for name in steady if abs(middle[name]) >= SMALL * abs(total)]
        counted = [self._counted(row) for row in self.first]
        # The first step is before any update: what was bad from the second on is no beginning.
        usual = min(statistics.median(counted), self.factor * counted[0])
        self.reference = usual if self.from_start else max(statistics.median(counted), ceiling)
        self.first = []

    def _counted(self, values: Mapping[str, float]) -> float:
        """The loss without terms that do not count."""
        others = (value for name, value in values.items() if name.startswith(TERM) and name not in self.terms)
        return values["loss"] - sum(others)

    def any_lasts(self, kind: str) -> bool:
        """Whether it is so now, where that is the kind."""
        return kind == KIND and self.conditions.any_lasts([KIND])

    def state_dict(self) -> dict[str, Any]:
        return {
            "basis": self.basis,
            "first": [dict(row) for row in self.first],
            "from_start": self.from_start,
            "terms": list(self.terms),
            "reference": self.reference,
            "recent": list(self.recent),
            "conditions": self.conditions.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Conditions go on; the beginning is forgotten where it is that of other options."""
        self._forget()
        self.conditions.load_state_dict(state["conditions"])
        if state["basis"] != self.basis:
            return
        self.first = [dict(row) for row in state["first"]]
        self.from_start, self.terms, self.reference = state["from_start"], list(state["terms"]), state["reference"]
        self.recent.extend(state["recent"])
