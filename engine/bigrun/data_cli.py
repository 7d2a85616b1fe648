"""`bigrun data`: index, pack and whatever else is done to a data set before training. Imports when it runs."""

from __future__ import annotations

import importlib.metadata

import click

from bigrun.data.commands.check import check
from bigrun.data.commands.index import index
from bigrun.data.commands.pack import pack
from bigrun.data.commands.split import split
from bigrun.data.commands.verify import verify

__all__ = ["COMMANDS", "data"]

COMMANDS = "bigrun.data"
"""The entry-point group of commands that packages add: name -> click.Command."""


class DataCommands(click.Group):
    """The engine's commands, and those of the entry-point group; a package is imported when its command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *added()})

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        own = super().get_command(ctx, name)
        return own if own is not None or name not in added() else load(added()[name])

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = []
        for name in self.list_commands(ctx):
            own = super().get_command(ctx, name)
            if own is None:
                distribution = added()[name].dist
                rows.append((name, f"A command of {distribution.name if distribution else 'another package'}."))
            else:
                rows.append((name, own.get_short_help_str(80)))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def added() -> dict[str, importlib.metadata.EntryPoint]:
    """The commands that installed packages add, by name; nothing is imported."""
    return {point.name: point for point in importlib.metadata.entry_points(group=COMMANDS)}


def load(point: importlib.metadata.EntryPoint) -> click.Command:
    """Raises: UsageError when the command cannot be imported."""
    from bigrun.errors import UsageError

    where = f"bigrun data {point.name}: its command, {point.value} of {point.dist.name if point.dist else '?'}"
    try:
        command = point.load()
    except (Exception, SystemExit) as error:
        raise UsageError(f"{where}, cannot be imported: {type(error).__name__}: {error}") from error
    if not isinstance(command, click.Command):
        raise UsageError(f"{where}, is a {type(command).__name__}, expected a click.Command")
    return command


@click.group(cls=DataCommands)
def data() -> None:
    """Index, pack, split, check, import and fetch the images of a run.

    PRESET|DIR is a folder of images, or a preset with its options, whose data set is built as a run would build it.
    """


for command in (check, index, pack, split, verify):  # in the order of their names; `list_commands` sorts
    data.add_command(command)
