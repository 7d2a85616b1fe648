"""What a data set of a million files costs: to index it, and to start from it.

python benchmarks/index.py --dir /big/disk        a million files of 4 kB each are made there, and removed
python benchmarks/index.py --files 20000          half a minute
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from reporting import header, positive, table

FOLDER_FILES = 1000

# Each phase is a process of its own, and says what it took itself, without those that read for it; its memory is the
# most it had beyond what it had after the imports.
PHASE = """
import json, pickle, resource, sys, time
from pathlib import Path
from bigrun.data.folder import ImageFolder
from bigrun.data.files.index import build_index, index_place
from bigrun.data.files.recorded import sources
from bigrun.data.pack.write import write_pack

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def spent():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime

def index(root, workers):
    with sources() as heard:
        files = ImageFolder.search(root).files
    return build_index(heard[0], files.table, index_place(heard[0]), workers=workers).files

def start(root, workers):
    return len(ImageFolder.search(root))

def pack(root, workers):
    return write_pack(ImageFolder.search(root).files, Path(root + "-packed"), workers=workers).files

what, root, workers = sys.argv[1], sys.argv[2], int(sys.argv[3])
before, cpu, wall = peak(), spent(), time.perf_counter()
files = {"index": index, "start": start, "pack": pack}[what](root, workers)
said = {"files": files, "wall": time.perf_counter() - wall, "cpu": spent() - cpu, "peak": peak() - before}
if what == "start":
    said["pickle"] = len(pickle.dumps(ImageFolder.search(root), protocol=5))
print(json.dumps(said))
"""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--files", type=positive, default=1_000_000, metavar="N", help="images to make  [1000000]")
    parser.add_argument("--dir", type=Path, metavar="DIR", help="on the disk that is to be measured  [temporary]")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes  [all cores]")
    parser.add_argument("--pack", action="store_true", help="pack them, too")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    print(header(f"Index of {options.files:,} files"), flush=True)
    with tempfile.TemporaryDirectory(dir=options.dir) as scratch:
        root = Path(scratch) / "images"
        seconds = make(root, options.files)
        print(f"files     16 x 16 x uint16 PNG in folders of {FOLDER_FILES:,}, made in {seconds:.0f} s", flush=True)
        print("\n" + measure(root, options.files, options.workers, with_pack=options.pack))
    return 0


def make(root: Path, files: int) -> float:
    """Images that differ in their bytes: behind the end of a PNG anything may stand. Returns the seconds it took."""
    pixels = np.random.default_rng(0).integers(0, 65536, (16, 16), dtype=np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    encoded, began = buffer.getvalue(), time.perf_counter()
    for number in range(files):
        folder = root / f"patient-{number // FOLDER_FILES:05d}" / "series-0001"
        if number % FOLDER_FILES == 0:
            folder.mkdir(parents=True)
        (folder / f"slice-{number % FOLDER_FILES:04d}.png").write_bytes(encoded + str(number).encode())
    return time.perf_counter() - began


def measure(root: Path, files: int, workers: int, *, with_pack: bool) -> str:
    """All phases in their order, as a table."""
    phases = [("search without an index", "start", root), ("index", "index", root), ("index again", "index", root)]
    phases += [("start from the index", "start", root)]
    packed = root.with_name(root.name + "-packed")
    if with_pack:
        phases += [("pack", "pack", root), ("start from the packed form", "start", packed)]
    rows = []
    for name, what, place in phases:
        said = run(what, place, workers)
        if said["files"] != files:
            raise SystemExit(f"{name}: {said['files']} files, expected {files}")
        rate = f"{files / said['wall']:,.0f}"
        pickled = f"{said['pickle'] / 1e6:.1f}" if "pickle" in said else ""
        rows.append([name, f"{said['wall']:.1f}", f"{said['cpu']:.1f}", rate, f"{said['peak'] / 1e6:.0f}", pickled])
        print(f"          {name}: {said['wall']:.1f} s", file=sys.stderr, flush=True)
    size = (root / "bigrun-index.sqlite").stat().st_size
    shutil.rmtree(packed, ignore_errors=True)
    titles = ("phase", "wall s", "CPU s, main", "files/s", "memory MB, peak", "pickled MB")
    return f"{table(titles, rows)}\n\nindex: {size / 1e6:.1f} MB; {workers} processes"


def run(what: str, root: Path, workers: int) -> dict[str, float]:
    words = [sys.executable, "-c", PHASE, what, str(root), str(workers)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{what} failed:\n{done.stderr}")
    said: dict[str, float] = json.loads(done.stdout)
    return said


if __name__ == "__main__":
    sys.exit(main())
