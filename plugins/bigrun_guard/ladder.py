"""Which answer an anomaly gets: the first time, the second, and after that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["Ladder"]


class Ladder:
    """Counts the occurrences of every kind. The n-th takes the n-th answer, the last answer repeats."""

    def __init__(self, answers: Mapping[str, Sequence[str]], repeat_within_steps: int) -> None:
        """`answers` by kind, of at least one each."""
        self.answers = answers
        self.repeat_within_steps = repeat_within_steps
        self.steps: dict[str, list[int]] = {}

    def answer(self, kind: str, step: int, apart_steps: int = 1) -> str | None:
        """The answer to an anomaly that was found at this step; None to an unknown kind. It is counted, unless one of
        its kind was counted less than `apart_steps` before: two signs of one thing are one occurrence."""
        if kind not in self.answers:
            return None
        steps = self.steps.setdefault(kind, [])
        if not steps or step - steps[-1] >= apart_steps:
            steps.append(step)
        return self.answers[kind][min(len(steps), len(self.answers[kind])) - 1]

    def forget(self, kind: str) -> None:
        """The condition is over: the next one is a first one."""
        self.steps.pop(kind, None)

    def forget_old(self, kind: str, step: int) -> None:
        """Occurrences more than `repeat_within_steps` before this step count no more."""
        recent = [s for s in self.steps.get(kind, ()) if step - s <= self.repeat_within_steps]
        if recent:
            self.steps[kind] = recent
        else:
            self.forget(kind)

    def onset(self, kind: str, step: int) -> int:
        """The first step of a streak of which an anomaly at this step is a part."""
        self.forget_old(kind, step)
        steps = self.steps.get(kind)
        return min(steps[0], step) if steps else step

    def state_dict(self) -> dict[str, Any]:
        return {kind: list(steps) for kind, steps in self.steps.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps = {kind: list(steps) for kind, steps in state.items()}
