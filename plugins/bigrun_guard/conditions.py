"""Conditions: what is wrong for longer than a moment is said when it begins, and now and then while it lasts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs

__all__ = ["Conditions"]


@attrs.define
class Condition:
    since: int | None
    """The step that showed it first; None when it is over."""
    reported: int | None = None
    """The step of the last report."""


class Conditions:
    """Every condition by its key, with what is known of it."""

    def __init__(self, remind_steps: int) -> None:
        self.remind_steps = remind_steps
        self._known: dict[str, Condition] = {}

    def holds(self, key: str, step: int, hold_steps: int, since: int | None = None) -> int | None:
        """It holds at this step. The step at which it began if that is to be reported now: when it has held for
        `hold_steps`, and again after every `remind_steps`; else None.

        Args:
            since: where somebody knows that it began before this step.
        """
        condition = self._known.setdefault(key, Condition(None))
        if condition.since is None:
            condition.since = step if since is None else since
        is_due = condition.reported is None or step - condition.reported >= self.remind_steps
        if step - condition.since < hold_steps or not is_due:
            return None
        condition.reported = step
        return condition.since

    def ends(self, key: str) -> None:
        """It does not hold. If it was reported it is not reported anew before `remind_steps` are over."""
        condition = self._known.get(key)
        if condition is not None:
            condition.since = None
            if condition.reported is None:
                del self._known[key]

    def is_known(self, key: str) -> bool:
        """Whether it holds, or was reported once."""
        return key in self._known

    def any_lasts(self, keys: Iterable[str]) -> bool:
        """Whether one of them holds, as far as is known."""
        return any(key in self._known and self._known[key].since is not None for key in keys)

    def state_dict(self) -> dict[str, Any]:
        return {key: [condition.since, condition.reported] for key, condition in self._known.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._known = {key: Condition(*parts) for key, parts in state.items()}
