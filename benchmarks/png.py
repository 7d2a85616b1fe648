"""What a 16-bit slice costs as a PNG file: size, writing and reading, by encoder and compression level.

    python benchmarks/png.py FOLDER                      a data set of `bigrun data fetch chest-ct`; two minutes
    python benchmarks/png.py FOLDER --slices 4 --rounds 1

`up` is the encoder of `bigrun data import`: every row as its difference from the row above. `Pillow` chooses a filter
for each row. Both are read from memory, in turn, by Pillow, by the libpng of imagecodecs, and by bigrun with the extra
`formats` or `ct`: libdeflate of imagecodecs where all rows have one filter, else its libpng.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import numpy.typing as npt
from PIL import Image
from reporting import header, positive, table

from bigrun.data.formats.grey16 import read_grey16
from bigrun_ct_import.png import COMPRESS_LEVEL, encode_png

Pixels = npt.NDArray[np.uint16]
LEVELS = range(10)


def with_pillow(pixels: Pixels, level: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=level)
    return file.getvalue()


ENCODERS: dict[str, Callable[[Pixels, int], bytes]] = {"up": encode_png, "Pillow": with_pillow}


def read(data: bytes) -> Pixels:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def read_here(data: bytes) -> Pixels:
    pixels = read_grey16(io.BytesIO(data))
    assert pixels is not None
    return pixels[0]


READERS: dict[str, Callable[[bytes], Pixels]] = {"Pillow": read, "libpng": imagecodecs.png_decode, "bigrun": read_here}


def load(folder: Path, count: int) -> list[Pixels]:
    """So many slices, spread over all."""
    paths = sorted(folder.glob("*/*.png"))
    if not paths:
        raise SystemExit(f"{folder}: no slices there; expected a folder of `bigrun data import` or `bigrun data fetch`")
    chosen = [paths[i * len(paths) // count] for i in range(count)] if count < len(paths) else paths
    return [read(path.read_bytes()) for path in chosen]


def milliseconds(work: Callable[[], object]) -> float:
    """CPU time of one call."""
    begin = time.process_time()
    work()
    return 1e3 * (time.process_time() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--slices", type=positive, default=20)
    parser.add_argument("--rounds", type=positive, default=7)
    options = parser.parse_args()
    slices = load(options.folder, options.slices)
    kinds = [(name, level) for name in ENCODERS for level in LEVELS]
    writing: dict[tuple[str, int], float] = {}
    files = {}
    for name, level in kinds:
        encode = ENCODERS[name]
        writing[name, level] = milliseconds(lambda e=encode, at=level: [e(s, at) for s in slices]) / len(slices)
        files[name, level] = [encode(pixels, level) for pixels in slices]
        for decode in READERS.values():
            assert all(np.array_equal(decode(data), s) for data, s in zip(files[name, level], slices, strict=True))
    ways = [(kind, reader) for kind in kinds for reader in READERS]
    reading: dict[tuple[tuple[str, int], str], list[float]] = {way: [] for way in ways}
    for _ in range(options.rounds):
        for kind, reader in ways:
            decode = READERS[reader]
            took = milliseconds(lambda k=kind, d=decode: [d(data) for data in files[k]])
            reading[kind, reader].append(took / len(slices))
    print(header("16-bit slices as PNG files"))
    height, width = slices[0].shape
    what = f"{len(slices)} slices of {height} x {width}, CPU time; reading is the median of {options.rounds} rounds"
    print(f"work      {what}\n")
    usual = statistics.median(reading[("up", COMPRESS_LEVEL), "Pillow"])
    rows = []
    for name, level in kinds:
        times = [statistics.median(reading[(name, level), reader]) for reader in READERS]
        size = statistics.mean(map(len, files[name, level]))
        read_in = [cell for took in times for cell in (f"{took:.2f}", f"{took / usual:.2f}")]
        rows.append((f"{name}, level {level}", f"{size / 1e3:.0f}", f"{writing[name, level]:.1f}", *read_in))
    columns = [cell for reader in READERS for cell in (f"{reader} read ms", "ratio")]
    print(table(("encoder", "kB", "write ms", *columns), rows))


if __name__ == "__main__":
    main()
