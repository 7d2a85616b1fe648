"""One option: its default, its help, its unit and when it has an effect, all declared where the option is.

    @attrs.frozen
    class Teacher:
        momentum: float | None = option(None, rule="teacher-momentum", help="...")

`bigrun explain`, `bigrun check`, the reference pages and every error message read this declaration.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

__all__ = [
    "NoEffect",
    "above",
    "at_least",
    "between",
    "describe_check",
    "describe_unit",
    "interval",
    "not_blank",
    "option",
    "section",
    "within",
]

# The last word of an option's name is its unit; names without one are pure numbers, words or lists.
UNITS = {
    "steps": "optimizer steps",
    "seconds": "seconds",
    "minutes": "minutes",
    "hours": "hours",
    "px": "pixels",
    "gib": "GiB (2^30 bytes)",
    "celsius": "degrees Celsius",
    "tflops": "10^12 operations per second",
    "fraction": "fraction, 0 to 1",
    "probability": "probability, 0 to 1",
    "factor": "factor",
    "batch": "images",
    "crops": "crops per image",
    "scale": "fraction of the image's area, [low, high]",
}


# The checks of this file in words; of any other, its docstring says what is allowed.
CHECKS = {
    "at_least": "at least {low}",
    "above": "above {low}",
    "between": "{low} to {high}",
    "within": "above {low}, up to {high}",
    "not_blank": "not empty",
    "interval": "two ascending values above {low}, up to {high}",
}


class NoEffect(str):
    """What is wrong with an option that is set and has no effect."""


def describe_check(check: Callable[[Any], str | None] | None) -> str | None:
    """What a check allows, in words; None when nothing is known about it."""
    if check is None:
        return None
    import inspect

    name = check.__qualname__.partition(".")[0]
    if check.__module__ == __name__ and name in CHECKS:
        return CHECKS[name].format(**{k: str(v) for k, v in inspect.getclosurevars(check).nonlocals.items()})
    first = (inspect.getdoc(check) or "").partition("\n")[0]
    return first.removesuffix(".") or None


def describe_unit(name: str) -> str | None:
    """The unit that an option's name states, in words; None when it has none."""
    return UNITS.get(name.rsplit("_", 1)[-1])


def option(
    default: Any = attrs.NOTHING,
    *,
    help: str,
    check: Callable[[Any], str | None] | None = None,
    rule: str | None = None,
    fixed: bool = False,
    shapes: bool | Callable[[Any], object] = False,
    effective: Callable[[Any], bool] | None = None,
    otherwise: str = "",
    secret: bool | None = None,
) -> Any:
    """Declare one option of a section or of a plugin's `Config` (an attrs field).

    Args:
        default: the value when the option is absent; leave out for a required option. `None` means off or,
            with `rule`, "chosen by rule".
        help: one sentence for people.
        check: returns what is wrong with a value ("expected ..., got ..."), or None. Not asked about None.
        rule: the name of the rule that chooses the value when it is None.
        fixed: True when a resumed run must keep the value (architecture, data, order of samples).
        shapes: True, for one that is `fixed`, when there are other tensors, or tensors of other shapes, with another
            value; or a function of the value on which they depend: `bool` where only being off makes a difference.
        effective: given the finished section, tells whether the option has any effect. An option that is set
            although it has none is refused, so that nobody believes in a dead option.
        otherwise: why it has no effect, for that message.
        secret: True for a password, a token, ...: its value is neither written nor printed, and a resumed run may have
            another one. None: its name decides (`redaction.py`); False for a harmless option of such a name.
    """
    metadata = {
        "help": help,
        "check": check,
        "rule": rule,
        "fixed": fixed,
        "shapes": shapes,
        "effective": effective,
        "otherwise": otherwise,
        "secret": secret,
    }
    if isinstance(default, list | dict | set):
        raise TypeError("an option's default must be immutable: use a tuple")
    return attrs.field(default=default, metadata=metadata)


def section(help: str, cls: type) -> Any:
    """Declare a table of options inside another."""
    return attrs.field(factory=cls, metadata={"help": help})


def at_least(low: float) -> Callable[[Any], str | None]:
    return lambda value: None if value >= low else f"expected at least {low}, got {value}"


def above(low: float) -> Callable[[Any], str | None]:
    return lambda value: None if value > low else f"expected more than {low}, got {value}"


def between(low: float, high: float) -> Callable[[Any], str | None]:
    return lambda value: None if low <= value <= high else f"expected {low} to {high}, got {value}"


def within(low: float, high: float) -> Callable[[Any], str | None]:
    """low < value <= high."""
    return lambda value: None if low < value <= high else f"expected more than {low}, up to {high}, got {value}"


def not_blank() -> Callable[[Any], str | None]:
    return lambda text: None if text.strip() else "expected a name, got nothing"


def interval(low: float, high: float) -> Callable[[Any], str | None]:
    """A pair [a, b] with low < a <= b <= high."""

    def check(pair: tuple[float, float]) -> str | None:
        a, b = pair
        return None if low < a <= b <= high else f"expected [a, b] with {low} < a <= b <= {high}, got [{a}, {b}]"

    return check
