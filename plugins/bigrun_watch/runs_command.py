"""bigrun runs: every run below a folder, one a line."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["runs"]


@click.command()
@click.argument("directory", type=click.Path(path_type=Path), default=Path("runs"), metavar="[DIR]")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array, for scripts.")
def runs(directory: Path, *, as_json: bool) -> None:
    """List the runs below a folder: how each stands, how far it is, and whether it is well.

    DIR is a folder with runs, or one run.  [default: runs]
    """
    import json

    from bigrun.errors import UsageError
    from bigrun.mistyped import did_you_mean_path
    from bigrun.refusals import reading
    from bigrun.terminal import say
    from bigrun_watch.row import Row, table_of
    from bigrun_watch.search import find_runs

    with reading(directory):
        if not directory.is_dir():
            hint = did_you_mean_path(directory, Path.is_dir)
            raise UsageError(f"{directory}: no such folder{hint}; expected one with runs in it, as runs")
    search = find_runs(directory)
    if directory in search.closed:
        raise UsageError(f"{directory}: cannot be searched for runs ({search.closed[directory]}): make it readable")
    found = [Row.of(path) for path in search.runs]
    if as_json:
        say(json.dumps([row.facts() for row in found], indent=2, allow_nan=False))
    elif found:
        for line in table_of(found):
            say(line)
    else:
        say(f"no runs below {directory}")
    if search.note:
        say(search.note, error=True)
