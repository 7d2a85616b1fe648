"""Conditions: what is wrong for longer than a moment is said when it begins, now and then while it lasts, and when it
is over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs

__all__ = ["Conditions", "Over"]


@attrs.frozen
class Over:
    """A condition that was reported holds no more."""

    kind: str
    since: int
    """Its onset, as it was reported."""
    evidence: tuple[str, ...] = ()
    """The names of its evidence, which tell it from others of its kind; none where they have changed meanwhile."""


@attrs.define
class Condition:
    since: int | None
    """The step that showed it first; None when it does not hold."""
    reported: int | None = None
    """The step of the last report."""
    onset: int | None = None
    """`since` as it was reported."""
    left: int | None = None
    """The first step at which it did not hold any more."""


class Conditions:
    """Every condition by its key, with what is known of it."""

    def __init__(self, remind_steps: int, over_steps: int) -> None:
        self.remind_steps = remind_steps
        self.over_steps = over_steps
        self._known: dict[str, Condition] = {}

    def holds(self, key: str, step: int, hold_steps: int, since: int | None = None) -> int | None:
        """It holds at this step. The step at which it began if that is to be reported now: when it has held for
        `hold_steps`, and again after every `remind_steps`; else None.

        Args:
            since: where somebody knows that it began before this step.
        """
        condition = self._known.setdefault(key, Condition(None))
        if condition.since is None:  # one that was reported, and is not over, goes on
            began = step if since is None else since
            condition.since = began if condition.onset is None else condition.onset
        condition.left = None
        is_due = condition.reported is None or step - condition.reported >= self.remind_steps
        if step - condition.since < hold_steps or not is_due:
            return None
        condition.reported, condition.onset = step, condition.since
        return condition.since

    def ends(self, key: str, step: int) -> int | None:
        """It does not hold at this step. Its onset if it was reported and is over now: when it has not held for
        `over_steps`; else None. What comes back later is a new one."""
        condition = self._known.get(key)
        if condition is None:
            return None
        condition.since = None
        if condition.left is None:
            condition.left = step
        if condition.reported is not None and step - condition.left < self.over_steps:
            return None
        del self._known[key]
        return condition.onset

    def is_known(self, key: str) -> bool:
        """Whether it holds, or was reported and is not over."""
        return key in self._known

    def any_lasts(self, keys: Iterable[str]) -> bool:
        """Whether one of them holds, as far as is known."""
        return any(key in self._known and self._known[key].since is not None for key in keys)

    def state_dict(self) -> dict[str, Any]:
        return {key: list(attrs.astuple(condition)) for key, condition in self._known.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Older checkpoints have the first two numbers alone."""
        self._known = {key: Condition(*parts) for key, parts in state.items()}
