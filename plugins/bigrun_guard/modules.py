"""Parts of the network that should learn and have no gradient."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bigrun.anomaly import Anomaly
from bigrun.evaluation.facts import Facts
from bigrun_guard.conditions import Conditions, Over
from bigrun_guard.config import GuardConfig
from bigrun_guard.diagnosis import anomaly
from bigrun_guard.window import Window

__all__ = ["KIND", "Modules"]

KIND = "dead-module"
MEMORY_STEPS, ENOUGH_STEPS = 101, 31


class Modules:
    """Judges the gradient norms of the trained modules after every update, once the warm-ups are over."""

    def __init__(self, config: GuardConfig, facts: Facts) -> None:
        self.config = config
        self.facts = facts
        self.conditions = Conditions(config.remind_steps, config.dead_module_steps)
        self.over: list[Over] = []
        self.windows: dict[str, Window] = {}

    def judge(self, step: int, norms: Mapping[str, float]) -> Iterator[Anomaly]:
        """`norms` of the modules that have anything to train, by name, before clipping."""
        for name, norm in norms.items():
            window = self.windows.setdefault(name, Window(MEMORY_STEPS))
            # A median: where two class tokens are equal KoLeo has a gradient of 1e10.
            typical = window.median()
            if norm > self.config.dead_module_fraction * typical or (norm > 0 and len(window) < ENOUGH_STEPS):
                window.accept(norm)
                onset = self.conditions.ends(name, step)
                self.over += [] if onset is None else [Over(KIND, onset, evidence_of(name))]
            elif step > self.facts.warmup_steps and name not in self.facts.idle_modules:
                onset = self.conditions.holds(name, step, self.config.dead_module_steps)
                if onset is not None:
                    yield dead(name, step, norm, typical, onset)

    def any_lasts(self, kind: str) -> bool:
        """Whether one is dead, where that is the kind."""
        return kind == KIND and self.conditions.any_lasts(self.windows)

    def state_dict(self) -> dict[str, Any]:
        windows = {name: list(window.values) for name, window in self.windows.items()}
        return {"conditions": self.conditions.state_dict(), "windows": windows}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.conditions.load_state_dict(state["conditions"])
        self.windows = {name: Window(MEMORY_STEPS, values) for name, values in state["windows"].items()}


def dead(name: str, step: int, norm: float, typical: float, onset: int) -> Anomaly:
    so = f"{norm:.3g} instead of {typical:.3g}" if norm else "0"
    message = f"{name} does not learn: its gradient norm is {so}, since step {onset}"
    evidence = dict(zip(evidence_of(name), (norm, typical), strict=True))
    return anomaly(KIND, step, message, evidence, onset=onset)


def evidence_of(name: str) -> tuple[str, str]:
    return f"grad_norm/{name}", "typical"
