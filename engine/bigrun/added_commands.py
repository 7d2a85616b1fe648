"""Command groups to which installed packages add commands by entry points. Imports a package when its command runs."""

from __future__ import annotations

import ast
import importlib.metadata

import click

from bigrun.unimported import definition

__all__ = ["ExtensibleGroup"]


class ExtensibleGroup(click.Group):
    """The engine's commands, and those of an entry-point group: name -> click.Command."""

    entry_points = ""
    """Their group."""
    prefix = "bigrun"
    """What is typed before the name of a command."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *self.added()})

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        own = super().get_command(ctx, name)
        if own is not None:
            return own
        point = self.added().get(name)
        return None if point is None else self.load(point)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = []
        for name in self.list_commands(ctx):
            own = super().get_command(ctx, name)
            rows.append((name, short_help(self.added()[name]) if own is None else own.get_short_help_str(80)))
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    @classmethod
    def added(cls) -> dict[str, importlib.metadata.EntryPoint]:
        """The commands that installed packages add, by name; nothing is imported."""
        return {point.name: point for point in importlib.metadata.entry_points(group=cls.entry_points)}

    @classmethod
    def load(cls, point: importlib.metadata.EntryPoint) -> click.Command:
        """Raises: UsageError when the command cannot be imported."""
        from bigrun.errors import UsageError

        distribution = point.dist.name if point.dist else "?"
        where = f"{cls.prefix} {point.name}: its command, {point.value} of {distribution}"
        try:
            command = point.load()
        except (Exception, SystemExit) as error:
            raise UsageError(f"{where}, cannot be imported: {type(error).__name__}: {error}") from error
        if not isinstance(command, click.Command):
            raise UsageError(f"{where}, is a {type(command).__name__}, expected a click.Command")
        return command


def short_help(point: importlib.metadata.EntryPoint) -> str:
    """The first sentence of a command's docstring, as click shows it, or else whose command it is; nothing is
    imported."""
    from bigrun.terminal import printable

    found = definition(point.value)
    text = ast.get_docstring(found) if isinstance(found, ast.FunctionDef) else None
    if text:
        return printable(click.Command(point.name, help=text).get_short_help_str(80))
    return f"A command of {point.dist.name if point.dist else 'another package'}."
