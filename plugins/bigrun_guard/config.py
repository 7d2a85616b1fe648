"""The options of anomaly-guard: when something is an anomaly, and what is done about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import attrs

from bigrun import option
from bigrun.options import above, at_least, between

__all__ = ["GuardConfig"]

BEFORE = ("skip", "save", "roll-back", "halt")
AFTER = ("warn", "save", "roll-back", "halt")
COLLAPSED = ("warn", "save", "halt")


def nonfinite_answers(answers: tuple[str, ...]) -> str | None:
    """one or more of skip, save, roll-back, halt"""
    return wrong(answers, BEFORE, {"warn": "such numbers never reach the weights: the step is skipped at least"})


def spike_answers(answers: tuple[str, ...]) -> str | None:
    """one or more of warn, skip, save, roll-back, halt"""
    return wrong(answers, ("warn", *BEFORE), {})


def late_answers(answers: tuple[str, ...]) -> str | None:
    """one or more of warn, save, roll-back, halt"""
    return wrong(answers, AFTER, {"skip": "it is judged after the update, when there is nothing to skip any more"})


def collapse_answers(answers: tuple[str, ...]) -> str | None:
    """one or more of warn, save, halt"""
    reasons = {
        "skip": "it is judged after the update, when there is nothing to skip any more",
        "roll-back": "the same options lead to the same collapse; go back by hand, with other options",
    }
    return wrong(answers, COLLAPSED, reasons)


def wrong(answers: tuple[str, ...], allowed: tuple[str, ...], reasons: dict[str, str]) -> str | None:
    """What is wrong with a ladder, or None."""
    if not answers:
        return f"expected at least one of {', '.join(allowed)}, got []"
    refused = next((answer for answer in answers if answer not in allowed), None)
    if refused is None:
        return None
    reason = f" ({reasons[refused]})" if refused in reasons else ""
    return f"expected a list of {', '.join(allowed)}, got {refused!r}{reason}"


def falling(pair: tuple[float, float]) -> str | None:
    """two descending values from 0 to 1"""
    warn, fail = pair
    return None if 1 >= warn >= fail >= 0 else f"expected [a, b] with 1 >= a >= b >= 0, got [{warn}, {fail}]"


def rising(pair: tuple[float, float]) -> str | None:
    """two ascending values"""
    warn, fail = pair
    return None if warn <= fail else f"expected [a, b] with a <= b, got [{warn}, {fail}]"


def ladder(*answers: str, check: Callable[[tuple[str, ...]], str | None], help: str) -> Any:
    return option(answers, check=check, help=help)


@attrs.frozen
class GuardConfig:
    """When something is an anomaly, and what is done the first time, the second time and so on; the last entry of a
    list repeats. In a pair, the first value is near-collapse and the second collapse."""

    nonfinite: tuple[str, ...] = ladder(
        "skip", "skip", "roll-back", check=nonfinite_answers, help="A loss or gradient norm that is not finite."
    )
    loss_spike: tuple[str, ...] = ladder(
        "skip", "skip", "roll-back", check=spike_answers, help="A loss far above those of the last steps."
    )
    gradient_spike: tuple[str, ...] = ladder(
        "skip", "skip", "roll-back", check=spike_answers, help="A gradient norm far above those of the last steps."
    )
    collapse: tuple[str, ...] = ladder(
        "halt", check=collapse_answers, help="Features or targets are (almost) the same for every image."
    )
    near_collapse: tuple[str, ...] = ladder(
        "warn", check=collapse_answers, help="An indicator is on the way there, and outside what is healthy."
    )
    entropy_wall: tuple[str, ...] = ladder(
        "warn", check=late_answers, help="Targets say nothing, or the student follows none: the loss is at ln K."
    )
    koleo_duplicates: tuple[str, ...] = ladder(
        "warn", check=late_answers, help="Different images of a step have almost the same class token."
    )
    divergence: tuple[str, ...] = ladder(
        "warn",
        "warn",
        "halt",
        check=late_answers,
        help="The student is worse than one that answers everything alike, or the loss far above its beginning.",
    )
    dead_module: tuple[str, ...] = ladder(
        "warn", check=late_answers, help="A part of the network that should learn has no gradient."
    )
    stuck: tuple[str, ...] = ladder("warn", check=late_answers, help="A loss has not moved since the first step.")

    repeat_within_steps: int = option(
        50, check=at_least(1), help="Bad numbers and spikes of so many steps count together; older ones are isolated."
    )
    remind_steps: int = option(
        1000, check=at_least(1), help="A condition that lasts is reported when it begins and again after so many steps."
    )
    window_steps: int = option(200, check=at_least(10), help="A spike is measured against so many accepted steps.")
    minimum_steps: int = option(30, check=at_least(5), help="There are no spikes before so many accepted steps.")
    spike_z: float = option(
        6.0,
        check=above(0),
        help="A spike is so many robust standard deviations (1.4826 median absolute deviations) of the logarithm above "
        "the median.",
    )
    # In 20,000 recorded healthy steps (tests/plugins/curves) a loss reached 1.18 times the median and z = 6.5,
    # a gradient norm 13 times the median, and z = 6.6 at 8 times.
    loss_spike_factor: float = option(1.5, check=above(1), help="A loss spike is at least so many times the median.")
    gradient_spike_factor: float = option(
        16.0, check=above(1), help="A spike of the gradient norm is at least so many times the median."
    )
    settle_steps: int = option(
        100,
        check=at_least(0),
        help="What follows is judged from so many steps after the last warm-up on, a dead module from its end on and "
        "`divergence_loss_factor` at once.",
    )
    hold_steps: int = option(50, check=at_least(0), help="A condition counts when it has lasted so many steps.")
    wall_entropy_fraction: float = option(
        0.99, check=between(0, 1), help="Targets whose mean entropy over ln K is above this say nothing."
    )
    wall_steps: int = option(
        1000, check=at_least(1), help="Above 0.999 for so many steps, or with class tokens alike, it is a collapse."
    )
    one_hot_entropy_fraction: float = option(
        0.02,
        check=between(0, 1),
        help="With softmax centring, targets of less entropy are a collapse to one prototype.",
    )
    marginal_entropy_fraction: tuple[float, float] = option(
        (0.8, 0.5), check=falling, help="Entropy of the mean target over ln K: below."
    )
    prototypes_used_fraction: tuple[float, float] = option(
        (0.1, 0.01), check=falling, help="Prototypes that some class token prefers, of those there could be: below."
    )
    class_spread: tuple[float, float] = option(
        (0.3, 0.1), check=falling, help="sqrt(1 - mean cosine) of class tokens of different images: below."
    )
    rank_fraction: tuple[float, float] = option(
        (0.1, 0.02), check=falling, help="RankMe of at least 1024 class tokens over what is possible: below."
    )
    rank_every_steps: int = option(1000, check=at_least(1), help="RankMe is measured every so many steps.")
    patch_cosine: tuple[float, float] = option(
        (0.9, 0.98), check=rising, help="Mean cosine between patches of an image: above."
    )
    class_patch_cosine: float = option(
        0.9, check=between(0, 1), help="Mean cosine between class token and patches: near-collapse above."
    )
    koleo: float = option(1.0, help="KoLeo before its weight: duplicates above.")
    divergence_factor: float = option(
        1.05, check=above(1), help="Cross-entropy of the student over ln K: divergence above."
    )
    # The recorded healthy losses stay below 1.0 times their beginning; one that diverges passes 2.
    divergence_loss_factor: float = option(
        1.5,
        check=above(1),
        help="Loss over that of the first 10 steps, from step 30 on: divergence when the median of 20 steps is above.",
    )
    dead_module_steps: int = option(50, check=at_least(1), help="A module is dead after so many steps in a row.")
    dead_module_fraction: float = option(
        1e-6, check=between(0, 1), help="Its gradient norm is at most this part of what it typically was."
    )
    stuck_steps: int = option(
        300, check=at_least(1), help="A loss is stuck when it has still not moved so many steps after `settle_steps`."
    )
    stuck_fraction: float = option(
        0.01, check=between(0, 1), help="It has not moved when all its values are within this part of the first."
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.minimum_steps > self.window_steps:
            yield "minimum_steps", f"{self.minimum_steps} is more than window_steps = {self.window_steps}"

    def ladders(self) -> dict[str, tuple[str, ...]]:
        """The answers by kind of anomaly."""
        return {
            "nonfinite": self.nonfinite,
            "loss-spike": self.loss_spike,
            "gradient-spike": self.gradient_spike,
            "collapse": self.collapse,
            "near-collapse": self.near_collapse,
            "entropy-wall": self.entropy_wall,
            "koleo-duplicates": self.koleo_duplicates,
            "divergence": self.divergence,
            "dead-module": self.dead_module,
            "stuck": self.stuck,
        }
