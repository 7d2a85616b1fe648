"""A command line, given once more."""

from __future__ import annotations

from typing import Any

import click

__all__ = ["words_of"]


def words_of(context: click.Context, **replaced: Any) -> list[str]:
    """The words of a subcommand as it was given, with some parameters, by their Python names, replaced."""
    options: list[str] = []
    arguments: list[str] = []
    for parameter in context.command.params:
        assert parameter.name is not None
        value = replaced.get(parameter.name, context.params[parameter.name])
        if isinstance(parameter, click.Argument):
            arguments.append(str(value))
        elif isinstance(value, bool):
            options += [parameter.opts[0]] if value else []
        elif value is not None:
            options += [f"{parameter.opts[0]}={v}" for v in (value if isinstance(value, tuple) else (value,))]
    return [str(context.info_name), *options, "--", *arguments]
