"""Whether a configuration is still that of the run it is to continue."""

from __future__ import annotations

import typing
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import tomli

from bigrun.errors import RunDirectoryError, UsageError
from bigrun.redaction import equal_but_secrets
from bigrun.rules import EngineConfig
from bigrun.values import as_lists, did_you_mean

if TYPE_CHECKING:
    from bigrun.config import Config

__all__ = ["IMAGES", "check_allowed", "check_same_run"]

IMAGES = "data.images"
"""What `--allow-change` calls the number of images, which is no option."""


def check_allowed(allowed_changes: Collection[str]) -> None:
    """Raises: UsageError when a key of `--allow-change` is nothing that a resumed run must keep."""
    keys = [f"{section}.{option.name}" for section, option in _options() if option.metadata["fixed"]]
    for key in allowed_changes:
        if key not in (*keys, IMAGES):
            hint = did_you_mean(key, [*keys, IMAGES])
            raise UsageError(f"--allow-change {key}: is no option that a continued run has to keep{hint}")


def check_same_run(
    config: Config, saved_toml: str, checkpoint: Path, allowed_changes: Collection[str] = ()
) -> dict[str, str]:
    """Compare a resumed run's configuration with its checkpoint's; returns the changes that are allowed, by option
    (`run.seed`), as text (`run.seed: 0 -> 1`).

    An option of the engine that the checkpoint does not have is younger than it, and was what its default is; one that
    a rule chooses has none, and is a change.

    Args:
        allowed_changes: options that may change although a resumed run must keep them.

    Raises:
        RunDirectoryError: a value changed that a resumed run must keep.
    """
    new = _leaves(config.public_tables())
    old = {path: _default(path) for path in new} | _leaves(tomli.loads(saved_toml))
    changes = {
        path: f"{'.'.join(path)}: {_shown(old.get(path))} -> {_shown(new.get(path))}"
        for path in sorted(old.keys() | new.keys())
        if not equal_but_secrets(old.get(path), new.get(path))
    }
    refused = [path for path in changes if _fixed(path) and ".".join(path) not in allowed_changes]
    if refused:
        bound = [path for path in refused if _shapes(path, old.get(path)) != _shapes(path, new.get(path))]
        raise RunDirectoryError(
            f"{checkpoint} is of a run with another configuration:\n"
            + "\n".join(f"  {changes[path]}" for path in refused)
            + "\nrestore these values to continue it, or start beside it with --fresh"
            + _ways_out([path for path in refused if path not in bound], bound)
        )
    return {".".join(path): text for path, text in changes.items()}


def _ways_out(free: list[tuple[str, ...]], bound: list[tuple[str, ...]]) -> str:
    """What may be done about options that may change if somebody means it, and about those that never may."""
    text = ""
    if free:
        flags = " ".join(f"--allow-change {'.'.join(path)}" for path in free)
        text += f"; if the change is meant, and the run need not be one that was never stopped: {flags}"
    if bound:
        names = ", ".join(".".join(path) for path in bound)
        text += (
            "\nno flag makes the weights of the checkpoint fit what gives them other shapes: set to the value of the "
            f"checkpoint, also where a rule chooses another one now: {names}"
        )
    return text


def _leaves(tables: dict[str, Any], path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    leaves: dict[tuple[str, ...], Any] = {}
    for key, value in tables.items():
        here = (*path, key)
        leaves |= _leaves(value, here) if isinstance(value, dict) else {here: value}
    return leaves


def _shown(value: Any) -> str:
    return "absent" if value is None else repr(value)


def _fixed(path: tuple[str, ...]) -> bool:
    """Whether an engine option must keep its value; plugins judge their own state."""
    option = _option(path)
    return option is not None and bool(option.metadata["fixed"])  # an option that is no more cannot be kept


def _shapes(path: tuple[str, ...], value: Any) -> Any:
    """What the shapes of weights depend on, of a value as TOML has it; None where they do not."""
    option = _option(path)
    shapes = option.metadata["shapes"] if option is not None else False
    return shapes(value) if callable(shapes) else value if shapes else None


def _default(path: tuple[str, ...]) -> Any:
    """An engine option's default as TOML has it; None where there is none."""
    option = _option(path)
    return None if option is None or option.default is attrs.NOTHING else as_lists(option.default)


def _options() -> Iterator[tuple[str, attrs.Attribute[Any]]]:
    """(table, option) of every option of the engine."""
    for name, section in typing.get_type_hints(EngineConfig).items():
        if attrs.has(section):
            yield from ((name, option) for option in attrs.fields(section))


def _option(path: tuple[str, ...]) -> attrs.Attribute[Any] | None:
    section = typing.get_type_hints(EngineConfig).get(path[0])
    return attrs.fields_dict(section).get(path[1]) if section and len(path) > 1 else None
