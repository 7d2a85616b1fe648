"""The indicators of section 10.4 of docs/explanation/objective.md: which numbers are a sign of what."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import attrs

from bigrun.evaluation.facts import Facts
from bigrun_guard.config import GuardConfig

__all__ = ["Indicator", "indicators"]

Values = Mapping[str, float]
UNIFORM = 0.999
"""Mean entropy over ln K from which on targets are as good as uniform."""
INFORMATIVE = 0.95
"""And below which they certainly say something."""
FEW = 5.0
"""RankMe below this is a collapse, in a space of 100 dimensions or more."""


@attrs.frozen
class Indicator:
    """One sign of one kind of anomaly."""

    key: str
    kind: str
    needs: tuple[str, ...]
    """Metrics; where one is missing it is not judged."""
    is_bad: Callable[[Values], bool]
    message: str
    hold_steps: int
    diagnosis: str = ""
    """The name of its diagnosis, where its kind has several."""


def below(kind: str, name: str, limit: float, message: str, hold_steps: int) -> Indicator:
    return Indicator(f"{kind}/{name}/low", kind, (name,), lambda v: v[name] < limit, message, hold_steps)


def above(kind: str, name: str, limit: float, message: str, hold_steps: int, diagnosis: str = "") -> Indicator:
    return Indicator(f"{kind}/{name}/high", kind, (name,), lambda v: v[name] > limit, message, hold_steps, diagnosis)


def indicators(config: GuardConfig, facts: Facts) -> list[Indicator]:
    """All that can be judged of a run."""
    return [
        *walls(config, facts),
        *targets(config, facts),
        *features(config),
        *duplicates(config),
        *followers(config, facts),
    ]


def walls(config: GuardConfig, facts: Facts) -> Iterator[Indicator]:
    """Targets that say nothing: the first of the two causes of a loss at ln K [spec 10.2]."""
    high, hold = config.wall_entropy_fraction, config.hold_steps
    yield above(
        "entropy-wall", "target_entropy_fraction", high, "the teacher's targets are almost uniform: it sees no "
        "difference between images, and a student that answers everything alike is right", hold, "teacher-wall",
    )  # fmt: skip
    yield above(
        "entropy-wall", "patch_target_entropy_fraction", high, "the teacher's targets of masked patches are almost "
        "uniform: it sees no difference between patches", hold, "patch-wall",
    )  # fmt: skip
    yield above(
        "collapse", "target_entropy_fraction", UNIFORM, f"the teacher's targets are uniform, for {config.wall_steps} "
        "steps or more", config.wall_steps,
    )  # fmt: skip


def followers(config: GuardConfig, facts: Facts) -> Iterator[Indicator]:
    """What the student makes of the targets, where ln K is known."""
    if facts.ceiling is None:
        return
    ceiling, needs = facts.ceiling, ("target_entropy_fraction", "student_divergence")

    def cross_entropy(values: Values) -> float:
        """Over ln K, of the student's global crops: the entropy of the targets and the divergence from them."""
        return values["target_entropy_fraction"] + values["student_divergence"] / ceiling

    yield Indicator(
        "student-wall", "entropy-wall", needs,
        lambda v: v["target_entropy_fraction"] < INFORMATIVE and abs(cross_entropy(v) - 1) < 0.005,
        f"the student's cross-entropy stays at ln K = {ceiling:.2f} although the targets say something: the student "
        "does not follow", max(config.hold_steps, config.stuck_steps), "student-wall",
    )  # fmt: skip
    yield Indicator(
        "divergence", "divergence", needs, lambda v: cross_entropy(v) > config.divergence_factor,
        f"the student's cross-entropy is above ln K = {ceiling:.2f}: it is worse than one that answers everything "
        "alike", config.hold_steps,
    )  # fmt: skip


def targets(config: GuardConfig, facts: Facts) -> Iterator[Indicator]:
    """One answer for every image, seen in the teacher's targets."""
    hold, sharp = config.hold_steps, facts.entropy_floor_fraction + 0.02
    yield Indicator(
        "agreement", "collapse", ("target_entropy_fraction", "student_divergence"),
        lambda v: v["student_divergence"] < 0.01 and not sharp <= v["target_entropy_fraction"] <= UNIFORM,
        "student and teacher agree on targets that are outside of what is healthy", config.wall_steps,
    )  # fmt: skip
    if facts.is_softmax_centred:
        low = config.one_hot_entropy_fraction
        yield below("collapse", "target_entropy_fraction", low, "every target is a single prototype", hold)
    # Rows that are all equal still have one prototype, which of few rows is a large fraction.
    one = 1.5 / max(min(facts.prototypes or facts.rows, facts.rows), 2)
    for kind, share, used in zip(
        ("near-collapse", "collapse"), config.marginal_entropy_fraction, config.prototypes_used_fraction, strict=True
    ):
        few = used if kind == "near-collapse" else max(used, one)
        yield below(kind, "marginal_entropy_fraction", share, "few prototypes have most of the targets", hold)
        yield below(kind, "prototypes_used_fraction", few, "class tokens prefer few of the prototypes", hold)


def features(config: GuardConfig) -> Iterator[Indicator]:
    """One answer for every image or patch, seen in the features."""
    hold = config.hold_steps
    for level, kind in enumerate(("near-collapse", "collapse")):
        so = ("very similar", "almost the same")[level]
        yield below(
            kind, "class_spread", config.class_spread[level], f"class tokens of different images are {so}", hold
        )
        yield above(kind, "patch_cosine", config.patch_cosine[level], f"patches of an image are {so}", hold)
        yield below(kind, "rank_fraction", config.rank_fraction[level], "class tokens use few dimensions", 0)
    yield Indicator(
        "rank", "collapse", ("rank_me", "rank_fraction"),
        lambda v: v["rank_me"] < FEW and v["rank_me"] >= 100 * v["rank_fraction"],
        f"class tokens use fewer than {FEW:.0f} dimensions", 0,
    )  # fmt: skip
    limit = config.class_patch_cosine
    yield above("near-collapse", "class_patch_cosine", limit, "patches are copies of the class token", hold)


def duplicates(config: GuardConfig) -> Iterator[Indicator]:
    """Neighbours that are too near: by the data, or because everything moves together."""
    needs, limit, spread = ("koleo", "class_spread"), config.koleo, config.class_spread[0]
    yield Indicator(
        "duplicates", "koleo-duplicates", needs, lambda v: v["koleo"] > limit and v["class_spread"] >= spread,
        "some images of a step have almost the same class token, while class tokens as a whole differ",
        config.hold_steps,
    )  # fmt: skip
    yield Indicator(
        "closeness", "koleo-duplicates", needs, lambda v: v["koleo"] > limit and v["class_spread"] < spread,
        "all class tokens are close to each other", config.hold_steps, "koleo-collapse",
    )  # fmt: skip
