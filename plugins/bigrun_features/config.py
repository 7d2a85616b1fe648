"""The options of feature-health: what is looked at, how often, and from where on it is not healthy."""

from __future__ import annotations

from typing import Any

import attrs

from bigrun import option
from bigrun.options import above, at_least, between

__all__ = ["HealthConfig"]


def falling(pair: tuple[float, float]) -> str | None:
    """two descending values from 0 to 1"""
    warn, fail = pair
    return None if 1 >= warn >= fail >= 0 else f"expected [a, b] with 1 >= a >= b >= 0, got [{warn}, {fail}]"


def rising(pair: tuple[float, float]) -> str | None:
    """two ascending values"""
    warn, fail = pair
    return None if warn <= fail else f"expected [a, b] with a <= b, got [{warn}, {fail}]"


def below(warn: float, fail: float, help: str) -> Any:
    return option((warn, fail), check=falling, help=f"{help}: warn and fail below.")


def beyond(warn: float, fail: float, help: str) -> Any:
    return option((warn, fail), check=rising, help=f"{help}: warn and fail above.")


@attrs.frozen
class HealthConfig:
    """Which images, how often, and the limits of what is healthy: in a pair, the first value warns and the second
    fails."""

    images: int | None = option(
        None,
        check=at_least(2),
        help="Images that are looked at, evenly spread over the validation part, or over the training data where there "
        "is none; absent: 1024, or as many as the network is wide if that is more. Fewer where there are fewer.",
    )
    every_steps: int | None = option(
        None,
        check=at_least(1),
        help="Steps between two looks, a multiple of run.log_every_steps; absent: as few as cost at most 1 % of a "
        "step, counted in FLOPs.",
    )
    keep_gib: float = option(
        1.0,
        check=at_least(0),
        help="Host memory in which decoded images are kept; those that have no room are read again at each look.",
    )
    settle_steps: int = option(
        100, check=at_least(0), help="It is judged from so many steps after the last warm-up on."
    )
    class_spread: tuple[float, float] = below(0.3, 0.1, "sqrt(1 - mean cosine) of class tokens of different images")
    rank_fraction: tuple[float, float] = below(
        0.1, 0.02, "RankMe of class tokens over what is possible (warn: if it was twice as high before)"
    )
    patch_cosine: tuple[float, float] = beyond(0.9, 0.98, "Mean cosine between patches of an image")
    class_patch_cosine: float = option(
        0.9, check=between(0, 1), help="Mean cosine between class token and patches: fail above."
    )
    koleo: tuple[float, float] = beyond(1.0, 4.0, "KoLeo of class tokens")
    entropy_fraction: tuple[float, float] = beyond(
        0.99, 0.999, "Mean entropy of targets over ln K (fail: for wall_steps), and of the student's predictions (warn)"
    )
    wall_steps: int = option(1000, check=at_least(0), help="Targets that are uniform for so many steps fail.")
    one_hot_entropy_fraction: float = option(
        0.02, check=between(0, 1), help="With softmax centring, mean entropy of targets over ln K: fail below."
    )
    marginal_entropy_fraction: tuple[float, float] = below(0.8, 0.5, "Entropy of the mean target over ln K")
    student_divergence: tuple[float, float] = below(
        0.05, 0.01, "Divergence of the student from the targets, in nat (fail: if targets are outside of what is "
        "healthy too)",
    )  # fmt: skip
    prototypes_used_fraction: tuple[float, float] = below(
        0.1, 0.01, "Prototypes that some class token prefers, of those there could be"
    )
    gradient_factor: float = option(
        10.0, check=above(1), help="Gradient norm of a module over its running median: warn above."
    )
