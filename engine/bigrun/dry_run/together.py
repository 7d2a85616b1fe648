"""The processes of a rehearsed run: begun together, heard together, and ended together. Torch-free."""

from __future__ import annotations

import contextlib
import select
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from bigrun.tuner.isolation import LOOK_SECONDS, Answer, Child, end

__all__ = ["ask_together"]

OWN_REASON_SECONDS = 60.0
"""When a process has ended because of another one: so long that one may take to say why, which ends it first."""


def ask_together(
    order: Mapping[str, Any],
    environments: Sequence[Mapping[str, str]],
    module: str,
    hear: Callable[[Mapping[str, Any]], None] = lambda line: None,
) -> list[Answer]:
    """Have a new process for each environment do what is ordered, all at once; they and all that they have started are
    gone when this returns, or raises, or its process is killed.

    Args:
        module: what the processes are.
        hear: told what the first one says before its answer.

    Returns:
        What each has answered. Where one fails the others are ended, and its answer is the only one: of several the
        first that fails for a reason of its own.
    """
    children: list[Child] = []
    with contextlib.ExitStack() as stack:
        stack.callback(end, children)
        for environment in environments:
            children.append(Child(order, module, environment))
        waits_until = float("inf")
        while unheard := [child for child in children if child.answer is None]:
            select.select(unheard, [], [], LOOK_SECONDS)
            for child in unheard:
                for line in child.heard():
                    if child is children[0]:
                        hear(line)
            if any(is_own(child.answer) for child in children) or time.monotonic() > waits_until:
                break
            if waits_until == float("inf") and any(failed(child.answer) for child in children):
                waits_until = time.monotonic() + OWN_REASON_SECONDS
        return judged([child.answer for child in children])


def judged(answers: Sequence[Answer | None]) -> list[Answer]:
    """All of them, or the failure that the others follow from; it says which process it is of."""
    failures = [(number, answer) for number, answer in enumerate(answers) if answer is not None and failed(answer)]
    if not failures:
        return [answer for answer in answers if answer is not None]
    number, answer = next((failure for failure in failures if is_own(failure[1])), failures[0])
    if number == 0 and answer.status == "error":  # what all meet alike the first one says
        return [answer]
    return [attrs.evolve(answer, message=f"process {number}: {answer.message}")]


def failed(answer: Answer | None) -> bool:
    return answer is not None and answer.status != "ok"


def is_own(answer: Answer | None) -> bool:
    """Whether its process has failed, and not because another one has."""
    return answer is not None and failed(answer) and not answer.is_of_another
