"""What the commands that read a preset have in common."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

__all__ = ["complete_plugin", "complete_preset", "device_option", "overridden", "preset_options", "source_options"]

F = TypeVar("F", bound=Callable[..., Any])


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
