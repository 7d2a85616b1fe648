"""`bigrun data split`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bigrun.command_options import source_options
from bigrun.terminal import say

if TYPE_CHECKING:
    from bigrun.data.split.make import Division

__all__ = ["split"]


@click.command()
@source_options
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("split.json"),
    show_default=True,
    help="Manifest to write.",
)
@click.option(
    "--fraction", type=float, default=0.1, show_default=True, help="Share of the groups that are for validation."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed, other groups.")
@click.option(
    "--level",
    type=click.Choice(["patient", "study", "series", "folder", "image"]),
    help="What stays together.  [default: the coarsest that the data set knows]",
)
@click.option("--force", is_flag=True, help="Replace a manifest that says something else.")
def split(source: str, out: Path, fraction: float, seed: int, level: str | None, force: bool, **overrides: Any) -> None:
    """Divide a data set into training and validation, in a manifest for `data.split`.

    What is for validation is a function of the seed and of the group's name alone: the same on any machine, and data
    that are added never move a patient to the other part. A manifest that is there already is not replaced by another
    one.
    """
    from bigrun.data.fingerprint import fingerprint
    from bigrun.data.source import data_run, read_source
    from bigrun.data.split.make import make_split
    from bigrun.data.split.write import encode, write_split
    from bigrun.errors import UsageError

    if not 0 < fraction < 1:
        raise UsageError(f"--fraction {fraction}: expected more than 0 and less than 1, as in --fraction 0.1")
    before = earlier(out)
    with data_run(read_source(source, **overrides)) as run:
        division = make_split(run.dataset, source, fraction=fraction, seed=seed, level=level, before=before)
        document = encode(division, fingerprint(run.dataset))
    is_new = write_split(out, document, force=force)
    for line in describe(division, level is None):
        say(line)
    say(f"{out}: {'written' if is_new else 'says so already, and stays'}; train with --set data.split={out}")


def earlier(out: Path) -> Any:
    """The manifest that is there, if one is; what else is there is `write_split`'s to judge."""
    from bigrun.data.split.manifest import Split
    from bigrun.errors import UsageError

    try:
        return Split.load(out) if out.is_file() else None
    except UsageError:
        return None


def describe(division: Division, is_default: bool) -> list[str]:
    """The parts in a few lines."""
    split, lines = division.split, []
    chosen = ", the coarsest level that tells them apart" if is_default else ""
    lines.append(f"by {split.level}{chosen}; seed {split.seed}, fraction {split.fraction:g}")
    for name, (groups, samples) in (("training", division.training), ("validation", division.validation)):
        lines.append(f"{name:<11}{samples:>9,} samples of {groups:>7,} {split.level} groups")
    return [*lines, *(f"warning    {text}" for text in division.warnings)]
