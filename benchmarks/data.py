"""What decoding costs: images of several kinds, and CT samples of three slices, per second and core.

python benchmarks/data.py                             with made-up CT slices, three minutes
python benchmarks/data.py --ct FOLDER                 with those of a folder that has an index.csv
python benchmarks/data.py --rounds 1 --series 4 --samples 64     ten seconds

Run it with a Python that has torchvision to see how its users usually decode; it is no dependency of bigrun. How long a
step waits for data: benchmarks/data_wait.py. How long a start takes with a million files: benchmarks/index.py.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from data_pipelines import Predecessor, SampleStream, pil_as_usual, two_views
from data_sets import link_series, made_up_ct, packed, write_photos
from reporting import header, positive, table

from bigrun.data.source import data_run, read_source

Work = Callable[[], object]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=positive, default=5, help="measured rounds over all rows  [5]")
    parser.add_argument("--ct", type=Path, help="folder with an index.csv of 16-bit slices  [made-up ones]")
    parser.add_argument("--series", type=positive, default=64, help="series; those of --ct are repeated  [64]")
    parser.add_argument("--samples", type=positive, default=256, help="CT samples per round  [256]")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    torch.set_num_threads(1)
    print(header("Data: decoding on one core"), flush=True)
    with tempfile.TemporaryDirectory(prefix="bigrun-data-") as name:
        folder = Path(name)
        write_photos(folder / "photos")
        source = options.ct or made_up_ct(folder / "made-up")
        slices = link_series(source, folder / "ct", options.series)
        kind = "made-up slices" if options.ct is None else f"slices of {options.ct.name}"
        print(f"work      {options.series} series, {slices:,} {kind}; {options.samples} samples a round", flush=True)
        decoding(folder, options.rounds)
        samples(folder, options.rounds, options.samples)
    return 0


def decoding(folder: Path, rounds: int) -> None:
    """Images per second of each kind of file."""
    usual = pil_as_usual()
    for kind, source, settings in (
        ("JPEG, 8-bit RGB, 512 px", folder / "photos" / "jpg", ()),
        ("PNG, 8-bit RGB, 512 px", folder / "photos" / "png", ()),
        ("PNG, 16-bit slice, 512 px", folder / "ct", ("ct-slices",)),
    ):
        options = [word for plugin in settings for word in ("--plugin", plugin)]
        rows = {"bigrun": reader(source, settings)}
        rows["bigrun, packed"] = reader(
            packed(source, folder / f"packed-{kind[:3]}-{kind[5:7].strip()}", *options), settings
        )
        if usual is not None:
            name, load = usual
            paths = sorted(path for path in source.rglob("*.*") if path.suffix in (".jpg", ".png"))[:64]
            rows[name] = lambda load=load, paths=paths: [load(path) for path in paths]
        count = min(64, len(list(source.rglob("*.[jp][pn]g"))))
        print(
            f"\n{kind}\n{rated(measure(rows, rounds), dict.fromkeys(rows, count), 'images / s', 'bigrun')}", flush=True
        )


def reader(source: Path, plugins: tuple[str, ...]) -> Work:
    """Decodes up to 64 files and touches every byte, which a mapped file would put off."""
    with data_run(read_source(str(source), [], plugins)) as run:
        files = run.dataset.files  # type: ignore[attr-defined]
    return lambda: [files[number].contiguous().clone() for number in range(min(64, len(files)))]


def samples(folder: Path, rounds: int, count: int) -> None:
    """CT samples per second: what a worker does, and the predecessor's pipeline, which has its views in the worker."""
    ct, mapped = folder / "ct", folder / "packed-PNG-16"
    streams = {
        "bigrun, PNG": SampleStream(ct),
        "bigrun, PNG, no stacks": SampleStream(ct, "stack_slices=1", "cache_mib=0"),
        "bigrun, packed": SampleStream(mapped, "cache_mib=0"),
    }
    for name in ("bigrun, PNG", "bigrun, packed"):  # from here on as in the middle of a training: the first time that
        drop(streams[name].take(streams[name].turn_over))  # a page of a packed file is touched costs 3 us more
    old = Predecessor(streams["bigrun, PNG"].dataset)
    rows: dict[str, Work] = {name: lambda stream=stream: drop(stream.take(count)) for name, stream in streams.items()}
    rows["predecessor's pipeline"] = lambda: drop(old.take(count))
    views, taken = two_views(), [*SampleStream(mapped).take(count)]
    rows["(bigrun's two views, on the device)"] = lambda: views(taken)
    found = measure(rows, rounds)
    print(f"\nCT samples of three slices\n{rated(found, dict.fromkeys(rows, count), 'samples / s', 'predecessor')}")


def drop(batches: Iterable[object]) -> None:
    """Take each and forget it: a process that decodes does not hold 400 MB of them."""
    for _ in batches:
        pass


def measure(rows: Mapping[str, Work], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each row in each round, in an order that changes with every round."""
    order, shuffle = list(rows), random.Random(0)
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for turn in range(rounds + 1):
        shuffle.shuffle(order)
        for name in order:
            start = time.process_time()
            rows[name]()
            if turn:  # the first warms up
                seconds[name].append(time.process_time() - start)
    return seconds


def rated(seconds: Mapping[str, list[float]], counts: Mapping[str, int], unit: str, base: str) -> str:
    """The table; ratios are to the row that begins with `base`, within a round."""
    reference = next(values for name, values in seconds.items() if name.startswith(base))
    cells = []
    for name, values in seconds.items():
        median = statistics.median(values)
        ratios = [theirs / mine for mine, theirs in zip(values, reference, strict=True)]
        times = [f"{counts[name] / median:,.0f}", f"{1e3 * median / counts[name]:.2f}"]
        cells.append([name, *times, *(f"{r:.2f}" for r in (statistics.median(ratios), min(ratios), max(ratios)))])
    return table(("way", unit, "ms", f"ratio to {base}", "least", "most"), cells)


if __name__ == "__main__":
    raise SystemExit(main())
