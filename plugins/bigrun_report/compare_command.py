"""`bigrun compare`. Imports when it runs."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["compare"]


@click.command(short_help="Show several runs beside each other.")
@click.argument("runs", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="RUN RUN...")
@click.option(
    "--metric", "metrics", multiple=True, metavar="NAME",
    help="May be repeated; * stands for anything.  [default: loss, its terms, probes, health, speed]",
)  # fmt: skip
@click.option(
    "--x", "axis", type=click.Choice(["step", "images", "hours"]), default="step", show_default=True,
    help="What the curves of --out are drawn over: optimizer steps, images seen, or hours in which steps were taken.",
)  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Write a page with all curves, too.")
def compare(runs: tuple[Path, ...], metrics: tuple[str, ...], axis: str, out: Path | None) -> None:
    """Show the last values of several runs, and the options in which they differ; --out draws their curves.

    RUN is a run directory, of a run that trains or has ended; nothing is written there.
    """
    from bigrun.errors import UsageError
    from bigrun.listing import table
    from bigrun.out_file import require_place
    from bigrun.record.record import RunRecord
    from bigrun.terminal import printable, say
    from bigrun_report.command import write_report
    from bigrun_report.comparison import Axis, compared, comparison_report
    from bigrun_report.page import page_of

    if len(runs) < 2:
        raise UsageError(f"compare {runs[0]}: expected two runs or more")
    if out is not None:
        require_place(out)
    records = [RunRecord(run) for run in runs]
    comparison = compared(records, Axis(axis), metrics)
    for number, (title, found) in enumerate(comparison.tables()):
        cells = (tuple(printable(cell).replace("\n", " ") for cell in row) for row in found.rows)
        lines = table(found.columns, cells).splitlines()
        for line in [*([""] if number else []), title, *(f"  {line}" for line in lines)]:
            say(line)
    if out is not None:
        write_report(out, page_of(comparison_report(comparison, records)))
        say(f"\npage: {out}")
