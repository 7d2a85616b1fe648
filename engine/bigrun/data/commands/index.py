"""`bigrun data index`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bigrun.command_options import source_options

if TYPE_CHECKING:
    from bigrun.data.dataset import Dataset
    from bigrun.data.files.recorded import Source

__all__ = ["index"]


@click.command()
@source_options
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where the index is written; data.index = FILE uses it.  [default: bigrun-index.sqlite in the data folder]",
)
@click.option("--decode", is_flag=True, help="Decode every image, which finds those that are damaged inside.")
@click.option(
    "--workers", type=click.IntRange(0, 1000), metavar="N", help="Processes that read.  [default: one for each core]"
)
@click.option("--json", "as_json", is_flag=True, help="For programs: everything, every fault and duplicate included.")
def index(source: str, out: Path | None, decode: bool, workers: int | None, as_json: bool, **overrides: Any) -> None:
    """Read every file of a data set once, and write down what it is.

    Size, shape and SHA-256 of each file, what the source says of it, and what is wrong with it. A run whose data folder
    has an index starts from it without searching the folder, after a look at some of the files, and leaves out those
    that are known to be bad. Done again, only files that are new or have changed are read; killed, it goes on where it
    stopped.
    """
    import json

    from bigrun.data.files.index import build_index, index_place
    from bigrun.data.files.recorded import sources
    from bigrun.data.source import data_run, read_source
    from bigrun.parallel import default_workers
    from bigrun.progress import progress
    from bigrun.terminal import say

    with sources() as heard, data_run(read_source(source, **overrides)) as run:
        found, table = the_source(run.dataset, heard, source)
        place = index_place(found, out)
        report = build_index(
            found,
            table,
            place,
            decode=decode,
            workers=default_workers(len(table.paths)) if workers is None else workers,
            command=this_command(),
            watch=progress,
        )
    if as_json:
        click.echo(json.dumps(report.as_json(), indent=2))
        return
    for line in report.lines():
        say(line)
    if out is not None:
        say(f"to use it    --set data.index={place}")


def the_source(dataset: Dataset, heard: list[Source], name: str) -> tuple[Source, Any]:
    """Where the data set has its files from, and what was listed there.

    Raises:
        UsageError: it is packed already, or not made of files by `open_files`.
    """
    from bigrun.data.files.listed import ListedFiles
    from bigrun.data.source import files_of
    from bigrun.errors import UsageError

    files = files_of(dataset, name)
    for source in heard:
        if source.files is files and isinstance(files, ListedFiles):
            return source, files.table
    raise UsageError(f"{name}: its data set has not opened its files with bigrun.data.files.open_files")


def this_command() -> str:
    """What the user has typed, for the day when it is to be repeated; without secrets."""
    import shlex
    import sys

    from bigrun.redaction import Redactor

    return Redactor.of_environment().text(shlex.join(["bigrun", *sys.argv[1:]]))
