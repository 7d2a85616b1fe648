"""A folder of images as a data set."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from bigrun.data.check.finding import UNSEARCHED, Finding
from bigrun.data.decode import read_image
from bigrun.data.faults import BadImageError
from bigrun.data.files import Entry, Files, open_files
from bigrun.data.files.open import open_listed
from bigrun.data.files.schema import INDEX
from bigrun.data.formats.contents import NAMES
from bigrun.data.search import Found, find_images, names_hash
from bigrun.errors import NoImagesError
from bigrun.mistyped import did_you_mean_path
from bigrun.refusals import reading

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

__all__ = ["ImageFolder", "read_image"]

SHOWN = 5  # broken files that the message for a folder without images names
TABLES = (".csv", ".tsv", ".parquet", ".xlsx")


class ImageFolder:
    """Images in files: BMP, GIF, JPEG, NumPy arrays, PNG, TIFF and WebP, known by their content and not by their name.

    What becomes of each kind is said at `bigrun.data.decode.read_image`; nothing is read with loss. Files that are
    called like an image and are none, and those that cannot be read, have no number: they are `files.faults`.
    """

    def __init__(self, paths: Sequence[str | Path]) -> None:
        """The files in this order."""
        root = Path(os.sep)
        entries = (Entry(str(Path(path).absolute().relative_to(root))) for path in paths)
        self.files: Files = open_listed(root, entries, follow_links=True)
        self.others: list[str] = []
        """Files that `search` has left alone because their contents are no image it reads."""
        self.closed: dict[str, str] = {}
        """Folders that `search` could not search, and why."""

    @classmethod
    def search(cls, root: str | Path, index: str | Path | None = None, channels: int | None = None) -> ImageFolder:
        """All image files below `root`, sorted by path; or those of its index or its packed form, if it has one.

        The first bytes of every file are read and nothing is decoded: 100,000 files take about 2 s. Symbolic links
        are followed, and a folder that is reached twice is searched once.

        Args:
            index: where the index lies if not in `root`.
            channels: of the model, by which the axes of a NumPy array are known.

        Raises:
            NoImagesError: there is no such folder, or it holds no image.
            UsageError: the folder may not be entered.
            DataIndexError: the index is out of date.
        """
        with reading(Path(root)):
            if not Path(root).is_dir():
                hint = did_you_mean_path(Path(root), Path.is_dir)
                raise NoImagesError(f"{root}: no such folder{hint}; expected a folder of images - check data.path")
        folder = cls(())
        folder.files = open_files(
            Path(root),
            lambda: folder._listed(os.fspath(root)),
            fingerprint=lambda: names_hash(os.fspath(root), ignored=INDEX, closed=folder.closed),
            index=None if index is None else Path(index),
            follow_links=True,
            channels=channels,
        )
        return folder

    def _listed(self, root: str) -> Iterator[Entry]:
        found = find_images(root)
        self.closed |= found.closed
        if not found.images:
            raise NoImagesError(no_images(root, found))
        self.others = found.others
        start = len(os.path.join(root, ""))  # noqa: PTH118 - every path begins with it, and pathlib costs 5 us a file
        yield from (Entry(path[start:]) for path in found.images)
        yield from (Entry(fault.path[start:], fault=fault) for fault in found.faults)

    @property
    def paths(self) -> list[str]:
        """Of all files."""
        return [self.describe(number) for number in range(len(self))]

    def summary(self) -> str:
        """How many images there are, where they are known from, and how many other files lie beside them."""
        names = ", ".join(Path(path).name for path in self.others[:3]) + (", ..." if len(self.others) > 3 else "")
        others = f"; {len(self.others):,} other files are left alone ({names})" if self.others else ""
        origin = getattr(self.files, "origin", "")
        return f"{len(self):,} files{origin and f', {origin}'}{others}"

    def unsearched(self) -> Iterator[Finding]:
        """Folders that could not be searched: nobody knows of how many images the training would go without."""
        if self.closed:
            found = sorted(self.closed.items())
            shown = ", ".join(f"{path} ({why})" for path, why in found[:SHOWN])
            more = f" and {len(found) - SHOWN:,} more" if len(found) > SHOWN else ""
            yield Finding(
                UNSEARCHED,
                f"{shown}{more}: how many images are in there is not known, and none would be trained on; make it "
                "readable for the user of this command, or move it out of the data set",
                refuses=True,
            )

    def problems(self) -> Iterator[Finding]:
        """Folders that could not be searched; and a table beside the images: who put it there may think that it is
        read."""
        yield from self.unsearched()
        tables = [path for path in self.others if path.lower().endswith(TABLES)]
        if tables:
            yield Finding(
                "table-not-read",
                f"{tables[0]}{f' and {len(tables) - 1:,} more' if len(tables) > 1 else ''}: a folder of images is read "
                "without tables, whatever they say of patients or neighbours; a source that reads one comes from a "
                "plugin (--plugin NAME, or a preset that has it)",
            )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int, /) -> Tensor:
        """Decode one image: (C, H, W) uint8, uint16 or float32. Raises BadImageError."""
        return self.files[index]

    def describe(self, index: int) -> str:
        """The file's path."""
        return str(self.files.root / self.files.path(index))


def no_images(root: str, found: Found) -> str:
    """The message for a folder without images."""
    others, faults = len(found.others), found.faults
    faults = [*faults, *(BadImageError(path, "unreadable", why) for path, why in sorted(found.closed.items()))]
    text = f"{root}: no images among {others + len(faults)} files; expected {', '.join(NAMES)} files, in subfolders too"
    text += "".join(f"\n  {fault}" for fault in faults[:SHOWN]) + ("\n  ..." if len(faults) > SHOWN else "")
    return text + ("\ncheck data.path" if faults else " - check data.path")
