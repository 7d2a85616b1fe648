"""Fashion-MNIST (Zalando Research, MIT licence), from Debian's package `dataset-fashion-mnist` or a folder of yours.

    python benchmarks/fashion.py                     fetch it, or say where it is
    python benchmarks/fashion.py --folder DIR        check the four files of a folder

Nothing is installed: the package is downloaded and unpacked into the user's cache, and every file's SHA-256 is checked
each time it is read.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["FashionMnist", "cache_folder", "find_fashion"]

PACKAGE = "dataset-fashion-mnist"
INSIDE = "usr/share/datasets/fashion-mnist"
CHECKSUMS = {
    "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
}


class FashionMnist:
    """The four files of a folder; raises SystemExit when one is missing or is another file than expected."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, expected in CHECKSUMS.items():
            path = folder / name
            if not path.is_file():
                raise SystemExit(f"{path}: no such file; expected the files of Fashion-MNIST: {', '.join(CHECKSUMS)}")
            got = hashlib.sha256(path.read_bytes()).hexdigest()
            if got != expected:
                raise SystemExit(f"{path}: SHA-256 is {got}, expected {expected}: a damaged or different file")

    def images(self, part: str, count: int) -> npt.NDArray[np.uint8]:
        """The first images of `train` or `t10k`: (count, 28, 28)."""
        return self._read(f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)[:count]

    def labels(self, part: str, count: int) -> npt.NDArray[np.uint8]:
        """Their classes (count,), 0 to 9."""
        return self._read(f"{part}-labels-idx1-ubyte.gz", 8)[:count]

    def _read(self, name: str, header_bytes: int) -> npt.NDArray[np.uint8]:
        with gzip.open(self.folder / name) as file:
            return np.frombuffer(file.read(), np.uint8, offset=header_bytes)


def find_fashion(folder: Path | None = None) -> FashionMnist:
    """The data set: of a folder, of an installed package, of the cache, or fetched into the cache."""
    if folder is not None:
        return FashionMnist(folder)
    installed, cached = Path("/") / INSIDE, cache_folder() / "fashion-mnist"
    for place in (installed, cached):
        if place.is_dir():
            return FashionMnist(place)
    fetch(cached)
    return FashionMnist(cached)


def cache_folder() -> Path:
    """Where benchmarks keep what they have fetched or made: `$XDG_CACHE_HOME/bigrun-benchmarks`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "bigrun-benchmarks"


def fetch(target: Path) -> None:
    """Download the package (31 MB) with apt-get and unpack its data to `target`."""
    missing = [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]
    if missing:
        raise SystemExit(f"no {' and no '.join(missing)} here: get Fashion-MNIST yourself and give its folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        # apt-get warns on stderr when its own user may not write here; it downloads all the same.
        words = ["apt-get", "download", PACKAGE]
        done = subprocess.run(words, cwd=scratch, capture_output=True, text=True, check=False)
        archives = list(Path(scratch).glob("*.deb"))
        if not archives:
            raise SystemExit(f"apt-get download {PACKAGE} failed: {done.stderr.strip()}")
        subprocess.run(["dpkg-deb", "-x", str(archives[0]), scratch], check=True)
        FashionMnist(Path(scratch) / INSIDE)  # checked before it is the cache
        (Path(scratch) / INSIDE).rename(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, help="a folder that has the four files")
    data = find_fashion(parser.parse_args().folder)
    print(f"{data.folder}: four files, checksums as expected")


if __name__ == "__main__":
    main()
