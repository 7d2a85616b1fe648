"""Command groups to which installed packages add commands by entry points. Imports a package when its command runs."""

from __future__ import annotations

import ast
import importlib.metadata
from collections.abc import Iterable, Sequence

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
        points = self.added().get(name)
        return None if points is None else self.load(points)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = []
        for name in self.list_commands(ctx):
            own = super().get_command(ctx, name)
            rows.append((name, short_help(self.added()[name]) if own is None else own.get_short_help_str(80)))
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    @classmethod
    def added(cls) -> dict[str, list[importlib.metadata.EntryPoint]]:
        """The commands that installed packages add: one of each name, if they agree. Nothing is imported."""
        found = dict[str, list[importlib.metadata.EntryPoint]]()
        for point in importlib.metadata.entry_points(group=cls.entry_points):
            others = found.setdefault(point.name, [])
            if point.value not in {other.value for other in others}:
                others.append(point)
        return found

    @classmethod
    def load(cls, points: Sequence[importlib.metadata.EntryPoint]) -> click.Command:
        """Raises: UsageError when the command cannot be imported, or packages have different ones of this name."""
        from bigrun.errors import UsageError

        point, *others = points
        if others:
            raise UsageError(f"{cls.prefix} {point.name}: {too_many(points)}")
        where = f"{cls.prefix} {point.name}: its command, {point.value} of {package(point)}"
        try:
            command = point.load()
        except (Exception, SystemExit) as error:
            raise UsageError(f"{where}, cannot be imported: {type(error).__name__}: {error}") from error
        if not isinstance(command, click.Command):
            raise UsageError(f"{where}, is a {type(command).__name__}, expected a click.Command")
        return command


def package(point: importlib.metadata.EntryPoint) -> str:
    return point.dist.name if point.dist else "another package"


def too_many(points: Iterable[importlib.metadata.EntryPoint]) -> str:
    """Which packages have a command of this name."""
    owners = " and ".join(sorted(f"{package(point)} ({point.value})" for point in points))
    return f"it is a command of {owners}: uninstall all but one"


def short_help(points: Sequence[importlib.metadata.EntryPoint]) -> str:
    """The first sentence of a command's docstring, as click shows it, or else whose command it is; nothing is
    imported."""
    from bigrun.terminal import printable

    point, *others = points
    if others:
        return printable(f"Cannot be used: {too_many(points)}.")
    found = definition(point.value)
    text = ast.get_docstring(found) if isinstance(found, ast.FunctionDef) else None
    if text:
        return printable(click.Command(point.name, help=text).get_short_help_str(80))
    return f"A command of {package(point)}."
