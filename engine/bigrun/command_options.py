"""What the commands that read a preset have in common."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from bigrun.finite import WholeRange

__all__ = [
    "complete_plugin",
    "complete_preset",
    "device_option",
    "overridden",
    "preset_options",
    "source_options",
    "training_options",
]

F = TypeVar("F", bound=Callable[..., Any])

TRAINING_OPTIONS = (
    click.option("--run-dir", type=click.Path(path_type=Path), help="Run directory.  [default: runs/<preset>]"),
    click.option(
        "--fresh", is_flag=True, help="Leave an existing run alone and start beside it (name-2, name-3, ...)."
    ),
    click.option(
        "--from",
        "source",
        type=click.Path(path_type=Path),
        metavar="CHECKPOINT",
        help="Begin a new run directory at a checkpoint of another run, which stays as it is.",
    ),
    click.option(
        "--max-hours", type=float, help="Stop after so many hours, with a checkpoint: --set run.max_hours=..."
    ),
    click.option(
        "--drop-plugin", "drop_plugins", multiple=True, metavar="NAME", help="Resume without a plugin's saved state."
    ),
    click.option(
        "--allow-change",
        "allowed_changes",
        multiple=True,
        metavar="KEY",
        help="Resume although this option, which a resumed run has to keep, is another now: --allow-change data.path.",
    ),
    click.option(
        "--supervise", is_flag=True, help="Start the run again from its newest checkpoint when it crashed or hung."
    ),
    click.option(
        "--max-restarts",
        type=WholeRange(min=0, max=10_000),
        metavar="N",
        help="With --supervise: give up after so many restarts without a newer checkpoint.  [default: 3]",
    ),
)


def complete_preset(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    from click.shell_completion import CompletionItem

    from bigrun.config import shipped_presets

    names = [CompletionItem(name) for name in shipped_presets() if name.startswith(incomplete)]
    return names or [CompletionItem(incomplete, type="file")]


def complete_plugin(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    from bigrun.entry_points import installed

    return [name for name in installed() if name.startswith(incomplete)]


def preset_options(command: F) -> F:
    """PRESET and its overrides, the same for every command that reads one."""
    file = click.option(
        "--with",
        "files",
        multiple=True,
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Lay the tables of a TOML file over the preset's, as what `bigrun tune` has found; before --set.",
    )
    return overridden(file(click.argument("preset", shell_complete=complete_preset)(command)))


def source_options(command: F) -> F:
    """PRESET|DIR and its overrides, for commands that need the data set only."""
    return overridden(click.argument("source", metavar="PRESET|DIR", shell_complete=complete_preset)(command))


def device_option(command: F) -> F:
    """--device, in `sets` behind those of --set."""

    @functools.wraps(command)
    def with_device(*args: Any, device: str | None, **options: Any) -> Any:
        if device is not None:
            options["sets"] += (f"hardware.device={device}",)
        return command(*args, **options)

    kinds = click.Choice(["auto", "cuda", "rocm", "cpu"])
    return click.option("--device", type=kinds, help="Where to compute: --set hardware.device=...")(with_device)  # type: ignore[return-value]


def training_options(command: F) -> F:
    """Where a run is, how it begins, and how long it may go on; --max-hours is in `sets`, behind those of --set."""

    @functools.wraps(command)
    def with_hours(*args: Any, max_hours: float | None, **options: Any) -> Any:
        if max_hours is not None:
            options["sets"] += (f"run.max_hours={max_hours}",)
        return command(*args, **options)

    decorated: Any = with_hours
    for decorate in reversed(TRAINING_OPTIONS):
        decorated = decorate(decorated)
    result: F = decorated
    return result


def overridden(command: F) -> F:
    """--set, --plugin and --no-plugin."""
    for decorate in (
        click.option(
            "--no-plugin", "no_plugins", multiple=True, metavar="NAME", help="Switch a plugin of the preset off."
        ),
        click.option(
            "--plugin",
            "plugins",
            multiple=True,
            metavar="NAME",
            shell_complete=complete_plugin,
            help="Switch a plugin on: an installed name, or module:Class.",
        ),
        click.option(
            "--set",
            "sets",
            multiple=True,
            metavar="KEY=VALUE",
            help="Override an option with a TOML value: --set run.max_steps=100.",
        ),
    ):
        command = decorate(command)
    return command
