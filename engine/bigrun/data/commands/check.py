"""`bigrun data check`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bigrun.command_options import source_options

__all__ = ["check"]


@click.command()
@source_options
@click.option(
    "--sample", type=click.IntRange(min=1), metavar="N", help="Decode N images instead of all, always the same ones."
)
@click.option(
    "--split",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Manifest to check the parts of: --set data.split=FILE.",
)
@click.option(
    "--workers", type=click.IntRange(0, 1000), metavar="N", help="Processes that decode.  [default: one for each core]"
)
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Also write a page with pictures.")
@click.option("--json", "as_json", is_flag=True, help="For programs: everything, every bad image included.")
def check(
    source: str,
    sample: int | None,
    split: Path | None,
    workers: int | None,
    html: Path | None,
    as_json: bool,
    **overrides: Any,
) -> None:
    """Decode every image of a data set, and say whether training may start.

    Sizes, depths and values by data set; images that cannot be used, by cause; images of one colour; copies, above all
    those that are on both sides of a split; and what the data set itself finds. The exit code is 0 if training may
    start, 1 if it must not, 2 if that cannot be told.
    """
    import json

    from bigrun.data.check.checking import check_data
    from bigrun.data.source import data_run, read_source
    from bigrun.errors import BigrunError, UsageError
    from bigrun.terminal import say

    if split is not None:
        overrides["sets"] += (f"data.split={json.dumps(str(split))}",)
    with data_run(read_source(source, **overrides)) as run:
        try:
            checked = check_data(run, source, sample=sample, workers=workers)
        except BigrunError as error:
            raise UsageError(str(error)) from error
        report, redactor = checked.report, run.config.redactor()
        if html is not None:
            from bigrun.data.check.page import write_page

            write_page(html, checked, redactor)
    if as_json:
        click.echo(json.dumps(redactor.value(report.as_json()), indent=2))
    else:
        for line in report.lines():
            say(redactor.text(line))
        if html is not None:
            say(f"{'page':<10}{html}")
    if not report.may_start:
        click.get_current_context().exit(1)
