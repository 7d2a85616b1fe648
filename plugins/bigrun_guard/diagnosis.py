"""What each kind of anomaly usually comes from, and what to try, in plain words and in the order to try it."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from bigrun.anomaly import USUAL_SEVERITY, Anomaly, Severity

__all__ = ["DIAGNOSES", "LASTING", "Diagnosis", "anomaly", "severity_of"]

REPLAY = "look at the step itself: `bigrun replay RUN --step N`"
WALL = (
    "check the plumbing: crops that differ, images that are not all alike, a teacher that moves",
    "model.layerscale = 0.1 for a network of up to 12 blocks: 1e-5 keeps all class tokens nearly equal early on",
    "objective.teacher_temperature = 0.04, its start, for the whole run",
    "half of optimizer.base_lr, and a longer optimizer.warmup_steps",
    "more overlap between crops: views.global_scale = [0.4, 1.0]",
    "objective.centring = 'softmax' for runs with fewer than 64 images a step",
)
"""The recipe of section 10.3 of docs/explanation/objective.md."""


LASTING = ("collapse", "near-collapse", "entropy-wall", "koleo-duplicates", "divergence", "dead-module", "stuck")
"""Kinds that are conditions, and not of one step."""
SEVERITIES: Mapping[str, Severity] = {
    "collapse": "grave",
    "divergence": "grave",
    "near-collapse": "minor",
    "koleo-duplicates": "minor",
}
"""All others are serious."""


@attrs.frozen
class Diagnosis:
    """Likely causes and what to try, likely ones first."""

    causes: tuple[str, ...]
    advice: tuple[str, ...]


DIAGNOSES: Mapping[str, Diagnosis] = {
    "loss-spike": Diagnosis(
        ("images unlike all others in this step", "a learning rate at the edge of what is stable"),
        (
            REPLAY,
            "one that comes alone can be left to the guard",
            "several: a smaller optimizer.base_lr, a longer warm-up, optimizer.betas = [0.9, 0.99]",
        ),
    ),
    "gradient-spike": Diagnosis(
        ("images unlike all others in this step", "a learning rate at the edge of what is stable"),
        (
            REPLAY,
            "one that comes alone can be left to the guard",
            "several: a smaller optimizer.base_lr, optimizer.clip_norm = 1.0, a longer warm-up",
        ),
    ),
    "entropy-wall": Diagnosis(
        ("the teacher sees no difference between images, or the student does not follow it",), WALL
    ),
    "teacher-wall": Diagnosis(
        ("representation collapse: the teacher's class tokens are nearly the same for every image",), WALL
    ),
    "patch-wall": Diagnosis(
        ("patches of all images look alike to the teacher: empty background, or too early in a run",),
        ("look at the images: how much of them is background", *WALL),
    ),
    "student-wall": Diagnosis(
        (
            "a learning rate that is far too small, or too large",
            "prototypes that are still frozen",
            "targets that do not belong to their crops",
        ),
        (
            "check optimizer.base_lr and the warm-up: does `learning_rate` in metrics.jsonl have the value you expect",
            *WALL,
        ),
    ),
    "collapse": Diagnosis(
        (
            "the shortest way to a low loss: one answer for every image, which student and teacher agree on",
            "targets that are not balanced: softmax centring with a wrong momentum or temperature",
            "images that are in fact nearly the same",
        ),
        (
            "do not go on from here: begin again at a checkpoint from before the onset, or afresh, with other options",
            "objective.centring = 'sinkhorn' if it is 'softmax'; objective.koleo_weight = 0.1 if it is 0",
            *WALL[1:5],
        ),
    ),
    "near-collapse": Diagnosis(
        ("images that are very similar, as slices of one organ are", "the beginning of a collapse"),
        (
            "follow the named number: steady is a property of the data, moving on is the beginning of a collapse",
            "look at the features: are the nearest neighbours of an image sensible",
        ),
    ),
    "koleo-duplicates": Diagnosis(
        (
            "the same image several times in the data set, or frames or slices next to each other",
            "a young network, after few steps: the features of all images are nearly alike",
        ),
        (
            "after few steps, see first whether `koleo` falls",
            "remove duplicates from the data set, or keep one of several neighbouring slices",
            "shuffle sources, so that a step has images of many of them",
        ),
    ),
    "koleo-collapse": Diagnosis(
        (
            "class tokens of all images move together: the beginning of a collapse",
            "a young network, after few steps: they are not apart yet",
        ),
        ("objective.koleo_weight = 0.1 if it is less", *WALL[1:4]),
    ),
    "divergence": Diagnosis(
        ("a learning rate at which the student runs away from its teacher", "weights damaged by an earlier update"),
        (
            "go back to a checkpoint from before the onset, with half of optimizer.base_lr",
            "a longer optimizer.warmup_steps",
            "hardware.precision = 'fp32' for some steps, to see whether precision is the cause",
        ),
    ),
    "dead-module": Diagnosis(
        (
            "a weight of 0 in front of the only loss that reaches it",
            "a plugin that replaces, freezes or detaches it",
            "activations that are all zero or all saturated",
        ),
        ("check the weights in [objective]", "switch plugins off one by one: --no-plugin NAME"),
    ),
    "stuck": Diagnosis(
        ("a learning rate that is far too small", "a warm-up longer than thought", "images that have nothing to tell"),
        ("check `learning_rate` in metrics.jsonl", "twice optimizer.base_lr", *WALL[:3]),
    ),
}


def anomaly(
    kind: str, step: int, message: str, evidence: Mapping[str, float], *, name: str = "", onset: int | None = None
) -> Anomaly:
    """An anomaly with its diagnosis, which is that of `name` where a kind has several."""
    known = DIAGNOSES[name or kind]
    return Anomaly(
        kind, step, message, dict(evidence), known.causes, known.advice, onset, kind in LASTING, severity_of(kind)
    )


def severity_of(kind: str) -> Severity:
    """Which of several anomalies is to be read first."""
    return SEVERITIES.get(kind, USUAL_SEVERITY)
