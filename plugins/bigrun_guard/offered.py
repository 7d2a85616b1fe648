"""What other plugins say is wrong: reported when it has lasted, and now and then while it does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from bigrun.anomaly import Anomaly
from bigrun_guard.conditions import Conditions, Over
from bigrun_guard.config import GuardConfig
from bigrun_guard.diagnosis import DIAGNOSES, severity_of

__all__ = ["Offered", "is_diagnoses"]


class Offered:
    """The diagnoses of others, each a condition of its own."""

    def __init__(self, config: GuardConfig) -> None:
        self.hold_steps = config.hold_steps
        self.conditions = Conditions(config.remind_steps, config.hold_steps)
        self.over: list[Over] = []
        self._kinds: dict[str, str] = {}
        """Of the conditions, by key."""

    def judge(self, step: int, diagnoses: Sequence[Anomaly]) -> Iterator[Anomaly]:
        """Those of now that are to be reported."""
        now = {key(diagnosis): diagnosis for diagnosis in diagnoses}
        for name in sorted(self._kinds.keys() - now.keys()):
            onset = self.conditions.ends(name, step)
            evidence = tuple(name.split("\n")[1:])
            self.over += [] if onset is None else [Over(self._kinds[name], onset, evidence)]
        self._kinds = {name: kind for name, kind in self._kinds.items() if self.conditions.is_known(name)}
        for name, diagnosis in now.items():
            self._kinds[name] = diagnosis.kind
            onset = self.conditions.holds(name, diagnosis.step, self.hold_steps, since=diagnosis.onset)
            if onset is not None:
                yield explained(attrs.evolve(diagnosis, onset=onset, lasts=True))

    def any_lasts(self, kind: str) -> bool:
        """Whether one of this kind holds."""
        return self.conditions.any_lasts(name for name, known in self._kinds.items() if known == kind)

    def state_dict(self) -> dict[str, Any]:
        return {"conditions": self.conditions.state_dict(), "kinds": dict(self._kinds)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.conditions.load_state_dict(state["conditions"])
        self._kinds = dict(state["kinds"])


def is_diagnoses(answer: Any) -> bool:
    """Whether it is what the hook `diagnoses` is to be answered with."""
    return isinstance(answer, list | tuple) and all(isinstance(each, Anomaly) for each in answer)


def explained(diagnosis: Anomaly) -> Anomaly:
    """With the guard's causes, advice and severity where it has none of its own."""
    if diagnosis.severity is None:
        diagnosis = attrs.evolve(diagnosis, severity=severity_of(diagnosis.kind))
    known = DIAGNOSES.get(diagnosis.kind)
    if known is None or diagnosis.causes or diagnosis.advice:
        return diagnosis
    return attrs.evolve(diagnosis, causes=known.causes, advice=known.advice)


def key(diagnosis: Anomaly) -> str:
    """What tells one condition from another."""
    return "\n".join([diagnosis.kind, *sorted(diagnosis.evidence)])
