"""Which values of the indicators are a sign of what [spec 10.4]."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import attrs

from bigrun_features.config import HealthConfig
from bigrun_features.measured import Measured
from bigrun_features.norms import GRADIENT

__all__ = ["FAIL", "OK", "WARN", "Sign", "gradients", "signs"]

OK, WARN, FAIL = "ok", "warn", "fail"
FEW = 5.0
"""RankMe below this is a collapse, where 100 or more would be possible."""
STOP = "do not go on from here: begin again before the onset, with other options"
WATCH = "follow the number: steady is a property of the images, moving on is the beginning of a collapse"
NEAR = "in a young network, after few steps, see whether it falls; else remove images that are there several times"
PLUMBING = "check crops, temperatures and learning rate, as in docs/how-to/diagnose-an-anomaly.md"


@attrs.frozen
class Sign:
    """A value that is not healthy."""

    indicator: str
    level: str
    kind: str | None
    """As anomaly-guard calls it; None: it is shown, and offered to nobody."""
    is_bad: Callable[[Measured], bool]
    why: str
    advice: str
    hold_steps: int = 0
    """It counts when it has lasted so many steps."""
    needs: tuple[str, ...] = ()
    """Indicators without which it cannot be judged; none: its own alone."""

    @property
    def key(self) -> str:
        return f"{self.indicator}/{self.level}/{self.why}"

    def holds(self, measured: Measured) -> bool | None:
        """None where it cannot be judged."""
        known = measured.finite()
        return self.is_bad(measured) if all(n in known for n in self.needs or (self.indicator,)) else None


def signs(config: HealthConfig, *, is_softmax_centred: bool) -> list[Sign]:
    """All of them, the milder ones first."""
    return [*features(config), *ranks(config), *prototypes(config), *targets(config, is_softmax_centred)]


def gradients(modules: Iterable[str], factor: float) -> list[Sign]:
    """Of the modules that are trained; anomaly-guard judges every step's norm itself."""
    why, advice = "its gradients are far above what they usually are", "a smaller optimizer.base_lr, a longer warm-up"
    names = [GRADIENT + module for module in modules]
    return [Sign(name, WARN, None, over(name, factor), why, advice) for name in names]


def over(name: str, limit: float) -> Callable[[Measured], bool]:
    return lambda m: m.values[name] > limit


def low(name: str, level: str, kind: str, limit: float, why: str, advice: str) -> Sign:
    return Sign(name, level, kind, lambda m: m.values[name] < limit, why, advice)


def high(name: str, level: str, kind: str, limit: float, why: str, advice: str) -> Sign:
    return Sign(name, level, kind, over(name, limit), why, advice)


LEVELS = ((WARN, "near-collapse", "very similar", WATCH), (FAIL, "collapse", "almost the same", STOP))


def features(config: HealthConfig) -> Iterator[Sign]:
    """One answer for every image or patch."""
    for index, (level, kind, alike, advice) in enumerate(LEVELS):
        limit = config.class_spread[index]
        yield low("class_spread", level, kind, limit, f"class tokens of different images are {alike}", advice)
        limit = config.patch_cosine[index]
        yield high("patch_cosine", level, kind, limit, f"patches of an image are {alike}", advice)
        limit = config.koleo[index]
        near = "some images have almost the same class token" if index == 0 else "class tokens lie on top of each other"
        yield high("koleo", level, "koleo-duplicates", limit, near, NEAR)
    limit = config.class_patch_cosine
    copies = "patches are copies of the class token"
    yield high("class_patch_cosine", FAIL, "near-collapse", limit, copies, WATCH)


def ranks(config: HealthConfig) -> Iterator[Sign]:
    """Few dimensions; of too few images nothing is said."""
    (warn, fail), why = config.rank_fraction, "class tokens use few dimensions"
    yield Sign("rank_fraction", WARN, None, fallen(warn), f"{why}, and used far more before", WATCH)
    yield Sign("rank_fraction", FAIL, "collapse", few_dimensions(fail), why, STOP)
    yield Sign(
        "rank_me", FAIL, "collapse",
        lambda m: m.has_enough and min(m.images, m.width) >= 100 and m.values["rank_me"] < FEW,
        f"class tokens use fewer than {FEW:.0f} dimensions", STOP,
    )  # fmt: skip


def fallen(limit: float) -> Callable[[Measured], bool]:
    return lambda m: m.has_enough and m.values["rank_fraction"] < m.least_rank_fraction(limit)


def few_dimensions(limit: float) -> Callable[[Measured], bool]:
    return lambda m: m.has_enough and m.values["rank_fraction"] < limit


def prototypes(config: HealthConfig) -> Iterator[Sign]:
    """Few prototypes for all images."""
    for index, (level, kind, _, advice) in enumerate(LEVELS):
        yield Sign(
            "marginal_entropy_fraction", level, kind, few_shares(config.marginal_entropy_fraction[index]),
            "few prototypes have most of the targets", advice,
        )  # fmt: skip
        yield Sign(
            "prototypes_used_fraction", level, kind, few_used(config.prototypes_used_fraction[index], level),
            "class tokens prefer few of the prototypes", advice,
        )  # fmt: skip


def few_shares(limit: float) -> Callable[[Measured], bool]:
    return lambda m: m.values["marginal_entropy_fraction"] < limit * m.marginal_ceiling_fraction


def few_used(limit: float, level: str) -> Callable[[Measured], bool]:
    def is_bad(measured: Measured) -> bool:
        # Rows that are all equal still have one prototype, which of few rows is a large fraction.
        one = 1.5 / max(min(measured.prototypes or measured.images, measured.images), 2) if level == FAIL else 0.0
        return measured.values["prototypes_used_fraction"] < max(limit, one)

    return is_bad


def targets(config: HealthConfig, is_softmax_centred: bool) -> Iterator[Sign]:
    """Targets that say nothing, and a student that follows none or agrees with anything."""
    (warn, fail), (close, closest) = config.entropy_fraction, config.student_divergence
    name = "target_entropy_fraction"
    uniform = "the teacher's targets are almost uniform: it sees no difference between images"
    yield high(name, WARN, "entropy-wall", warn, uniform, PLUMBING)
    uniform = "the teacher's targets are uniform and stay so"
    yield Sign(name, FAIL, "collapse", lambda m: m.values[name] > fail, uniform, STOP, hold_steps=config.wall_steps)
    if is_softmax_centred:
        yield low(name, FAIL, "collapse", config.one_hot_entropy_fraction, "every target is a single prototype", STOP)
    yield high(
        "student_entropy_fraction", WARN, "entropy-wall", warn, "the student's predictions are almost uniform: it "
        "answers every image alike", PLUMBING,
    )  # fmt: skip
    yield low(
        "student_divergence", WARN, "near-collapse", close, "the student says almost exactly what the teacher does",
        WATCH,
    )  # fmt: skip
    yield Sign(
        "student_divergence", FAIL, "collapse",
        lambda m: m.values["student_divergence"] < closest
        and not m.entropy_floor_fraction + 0.02 <= m.values[name] <= fail,
        "student and teacher agree on targets that are outside of what is healthy", STOP,
        needs=("student_divergence", name),
    )  # fmt: skip
