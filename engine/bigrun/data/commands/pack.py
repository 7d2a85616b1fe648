"""`bigrun data pack`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bigrun.command_options import source_options

if TYPE_CHECKING:
    from bigrun.data.files.listed import ListedFiles
    from bigrun.run import Run

__all__ = ["pack"]


@click.command()
@source_options
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--workers", type=click.IntRange(0, 1000), metavar="N", help="Processes that decode.  [default: one for each core]"
)
@click.option("--json", "as_json", is_flag=True, help="For programs: everything, every fault included.")
def pack(source: str, out: Path, workers: int | None, as_json: bool, **overrides: Any) -> None:
    """Decode every file of a data set once, and write the pixels to the new folder OUT.

    A training with data.path = OUT decodes nothing, and takes the same batches bit for bit. OUT is several times as
    large as the files. Killed, the same command goes on where it stopped; at the end every image is read back.
    """
    import json

    from bigrun.data.pack.write import write_pack
    from bigrun.data.source import data_run, read_source
    from bigrun.parallel import default_workers
    from bigrun.progress import progress
    from bigrun.terminal import say

    with data_run(read_source(source, **overrides)) as run:
        files = source_files(run, source, out)
        workers = default_workers(len(files)) if workers is None else workers
        report = write_pack(files, out, workers=workers, watch=progress)
    if as_json:
        click.echo(json.dumps(report.as_json(), indent=2))
        return
    for line in report.lines():
        say(line)


def source_files(run: Run, name: str, out: Path) -> ListedFiles:
    """The files to be packed.

    Raises:
        UsageError: they are packed already, of another kind, or OUT lies among them.
    """
    from bigrun.data.files.listed import ListedFiles
    from bigrun.data.source import files_of
    from bigrun.errors import UsageError

    files = files_of(run.dataset, name)
    if not isinstance(files, ListedFiles):
        raise UsageError(f"{name}: its data set is {type(files).__name__} of {files.root}: packed already, perhaps")
    if out.resolve().is_relative_to(files.root.resolve()):
        raise UsageError(f"{out}: lies in the folder of the data set, {files.root}: the search would find it there")
    return files
