"""The options of `bigrun run` and `bigrun launch` that are about a dry run. Imports when it runs."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from bigrun.config import Config, Document

__all__ = ["DryRunOptions", "dry_run_options"]

F = TypeVar("F", bound=Callable[..., Any])

USELESS = (
    "source", "supervise", "max_restarts", "drop_plugins", "allowed_changes", "slurm", "node_rank", "rendezvous",
    "grace_seconds",
)  # fmt: skip
"""Parameters that a dry run has no use for."""
WHICH = "begins at step 1, on this machine, and starts nothing again"
DEFAULT_STEPS = 10


@attrs.frozen
class DryRunOptions:
    """As they were given."""

    wanted: bool
    steps: int | None
    scratch: Path | None
    json_file: Path | None

    def run(
        self, context: click.Context, document: Document, processes: Callable[[Config], int] = lambda config: 1
    ) -> int:
        """Rehearse the run that the command describes; returns the exit code.

        Args:
            processes: how many the run has.

        Raises:
            click.UsageError: an option has no effect.
            UsageError, ConfigError: there is nothing to rehearse.
        """
        from bigrun.dry_run.command import dry_run
        from bigrun.dry_run.one_machine import refuse_others

        given = context.params
        refuse_others(os.environ, given.get("nodes", 1))
        for parameter in context.command.params:
            name = parameter.name or ""
            if name in USELESS and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
                raise click.UsageError(f"{parameter.opts[0]} has no effect with --dry-run, which {WHICH}")
        steps = DEFAULT_STEPS if self.steps is None else self.steps
        place = given["run_dir"], steps, self.scratch, self.json_file
        return dry_run(document, *place, fresh=given["fresh"], processes=processes)


def dry_run_options(command: F) -> F:
    """--dry-run, --steps, --scratch and --json, as one argument `dry`."""

    @functools.wraps(command)
    def with_dry(
        *args: Any, dry_run: bool, steps: int | None, scratch: Path | None, json_file: Path | None, **options: Any
    ) -> Any:
        dry = DryRunOptions(dry_run, steps, scratch, json_file)
        alone = {"--steps": steps, "--scratch": scratch, "--json": json_file}
        for name, value in alone.items():
            if value is not None and not dry_run:
                raise click.UsageError(f"{name} has no effect without --dry-run")
        return command(*args, dry=dry, **options)

    decorated: Any = with_dry
    for decorate in (
        click.option(
            "--json", "json_file", type=click.Path(path_type=Path), help="With --dry-run: a file for scripts."
        ),
        click.option(
            "--scratch",
            type=click.Path(path_type=Path),
            metavar="DIR",
            help="With --dry-run: the folder for it.  [default: that of the run directory]",
        ),
        click.option(
            "--steps",
            type=click.IntRange(min=2),
            metavar="N",
            help=f"With --dry-run: so many steps.  [default: {DEFAULT_STEPS}]",
        ),
        click.option(
            "--dry-run",
            is_flag=True,
            help="Take some real steps in a scratch directory, save, resume, and say what the run would be; nothing "
            "stays.",
        ),
    ):
        decorated = decorate(decorated)
    result: F = decorated
    return result
