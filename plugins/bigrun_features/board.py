"""What was found until now: which signs hold and since when, and how every indicator is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from bigrun.anomaly import Anomaly
from bigrun_features.measured import Measured
from bigrun_features.signs import FAIL, OK, WARN, Sign

__all__ = ["TWICE", "Board", "Change"]

TWICE = 2
"""A sign counts when so many looks in a row have shown it."""
RISING, LOOKS, RISE = "class_patch_cosine", 10, 0.1
"""A rise by so much over so many looks, hardly ever interrupted, is steady."""
RANK = "rank_fraction"
NOT_A_NUMBER = "features are not finite"


@attrs.frozen
class Change:
    """How the status of an indicator has changed."""

    indicator: str
    was: str
    now: str
    value: float | None
    why: str
    advice: str
    since: int


class Board:
    """Judges one look after the other. Its state is JSON."""

    def __init__(self, signs: Sequence[Sign], settled_step: int) -> None:
        """`settled_step`: looks at later steps are judged."""
        self.signs = [*signs, rising(self)]
        self.settled_step = settled_step
        self.levels: dict[str, str] = {}
        """Of the indicators that were judged."""
        self.measured: Measured | None = None
        """The newest look."""
        self.step = 0
        self._seen: dict[str, list[int]] = {}
        """By sign: the first of the looks in a row that show it, and how many they are."""
        self._history: list[float] = []
        self._best_rank: float | None = None

    def judge(self, step: int, measured: Measured) -> list[Change]:
        """A look was taken; what has changed by it."""
        self.step, self.measured = step, measured
        if step <= self.settled_step:
            return []
        self.measured = measured = self._with_best(measured)
        if RISING in measured.finite():
            self._history = [*self._history, measured.values[RISING]][-LOOKS:]
        for sign in self.signs:
            holds = sign.holds(measured)
            if holds:
                first, count = self._seen.get(sign.key, (step, 0))
                self._seen[sign.key] = [first, count + 1]
            else:
                self._seen.pop(sign.key, None)
        return list(self._changes(measured))

    def _with_best(self, measured: Measured) -> Measured:
        known = [self._best_rank, measured.finite().get(RANK) if measured.has_enough else None]
        self._best_rank = max((value for value in known if value is not None), default=None)
        return attrs.evolve(measured, best_rank_fraction=self._best_rank)

    def _changes(self, measured: Measured) -> Iterator[Change]:
        up = {sign.indicator: sign for sign in self.up()}
        for name in measured.values:
            worst = up.get(name)
            is_number = name in measured.finite()
            now = (OK if worst is None else worst.level) if is_number else FAIL
            was = self.levels.get(name, OK)
            self.levels[name] = now
            if now != was:
                why = NOT_A_NUMBER if not is_number else worst.why if worst else "as it should be again"
                since = self._seen[worst.key][0] if worst and is_number else self.step
                value = measured.values[name] if is_number else None
                yield Change(name, was, now, value, why, worst.advice if worst else "", since)

    def up(self) -> list[Sign]:
        """The signs that hold, of each indicator the worst."""

        def is_up(sign: Sign) -> bool:
            first, count = self._seen.get(sign.key, (self.step, 0))
            return count >= TWICE and self.step - first >= sign.hold_steps

        up = [sign for sign in self.signs if is_up(sign)]
        return list({sign.indicator: sign for sign in sorted(up, key=lambda s: s.level == FAIL)}.values())

    @property
    def status(self) -> str:
        """The worst of all."""
        levels = self.levels.values()
        return next((level for level in (FAIL, WARN) if level in levels), OK)

    @property
    def is_judged(self) -> bool:
        return self.step > self.settled_step and self.measured is not None

    def rises(self) -> bool:
        """Whether the last looks show a steady rise."""
        steps = [b - a for a, b in zip(self._history, self._history[1:], strict=False)]
        return (
            len(self._history) == LOOKS
            and self._history[-1] - self._history[0] > RISE
            and sum(step > 0 for step in steps) >= len(steps) - 1
        )

    def diagnoses(self) -> list[Anomaly]:
        """What is wrong now."""
        return [self._diagnosis(sign, sign.kind) for sign in self.up() if sign.kind is not None]

    def _diagnosis(self, sign: Sign, kind: str) -> Anomaly:
        assert self.measured is not None
        names, values = sign.needs or (sign.indicator,), self.measured.values
        evidence: dict[str, float | str] = {f"health/{name}": values[name] for name in names}
        onset = self._seen[sign.key][0]
        return Anomaly(kind, self.step, f"{sign.why}, since step {onset}", evidence, onset=onset)

    def state_dict(self) -> dict[str, Any]:
        measured = None
        if self.measured is not None:
            measured = attrs.asdict(self.measured) | {"values": {n: str(v) for n, v in self.measured.values.items()}}
        return {
            "levels": dict(self.levels),
            "seen": {key: list(value) for key, value in self._seen.items()},
            "history": list(self._history),
            "best_rank_fraction": self._best_rank,
            "step": self.step,
            "measured": measured,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.levels, self.step = dict(state["levels"]), state["step"]
        self._seen = {key: list(value) for key, value in state["seen"].items()}
        self._history = list(state["history"])
        self._best_rank = state.get("best_rank_fraction")
        if (measured := state["measured"]) is not None:
            values = {name: float(value) for name, value in measured["values"].items()}  # NaN is no JSON
            self.measured = Measured(**(measured | {"values": values}))


def rising(board: Board) -> Sign:
    """The one sign that is about more than the newest look."""
    return Sign(
        RISING, WARN, None, lambda measured: board.rises(), "patches become ever more like the class token",
        "Gram anchoring holds patch features in place (docs/how-to/anchor-a-long-run.md)",
    )  # fmt: skip
