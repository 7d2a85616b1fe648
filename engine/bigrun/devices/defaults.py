"""Values of options that nobody has set, chosen for the device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from bigrun.answers import merged
from bigrun.choices import Choice
from bigrun.errors import UsageError

if TYPE_CHECKING:
    from bigrun.config import Config
    from bigrun.run import Run

__all__ = ["BY_DEVICE", "choose_for_device"]

BY_DEVICE = (
    "data.micro_batch",
    "data.workers",
    "data.prefetch",
    "hardware.activation_checkpointing",
    "hardware.pin_memory",
)
"""What may be another value on another device: speed and memory depend on it, and what is learnt does not."""


def choose_for_device(run: Run) -> None:
    """Ask plugins (`hardware_defaults`) and take what neither the preset nor the command line has set.

    Raises:
        UsageError: two plugins answer for one option; an answer is no option that may depend on the device, or no value
            that it may have.
    """
    answers: Mapping[str, Any] = merged(run.hook.hardware_defaults(run=run), "default for the device")
    if answers:
        run.config = with_choices(run.config, answers)


def with_choices(config: Config, answers: Mapping[str, Any]) -> Config:
    from bigrun.rules import cross_problems
    from bigrun.values import structure_option

    problems: list[tuple[str, str]] = []
    choices: list[Choice] = []
    for path, answer in answers.items():
        if path not in BY_DEVICE:
            problems.append((path, f"may not depend on the device; those that may: {', '.join(BY_DEVICE)}"))
            continue
        if path in config.explicit:
            continue
        value, why = answer
        table, name = path.split(".")
        part, before = getattr(config, table), len(problems)
        value = structure_option(value, type(part), name, table, problems)
        if len(problems) == before:
            config = attrs.evolve(config, **{table: attrs.evolve(part, **{name: value})})
            choices.append(Choice(path, value, why))
    problems += own_problems(config, choices)
    problems += cross_problems(config)
    if problems:
        told = "".join(f"\n  {path}: {text}" for path, text in problems)
        raise UsageError(f"values that a plugin has chosen for this device cannot be used:{told}\nset them yourself")
    paths = {choice.path for choice in choices}
    kept = tuple(choice for choice in config.choices if choice.path not in paths)
    return attrs.evolve(config, choices=(*kept, *choices))


def own_problems(config: Config, choices: list[Choice]) -> Iterator[tuple[str, str]]:
    for table in dict.fromkeys(choice.path.partition(".")[0] for choice in choices):
        part = getattr(config, table)
        yield from ((f"{table}.{name}", text) for name, text in getattr(part, "problems", tuple)())
