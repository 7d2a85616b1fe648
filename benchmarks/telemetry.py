"""What telemetry costs: steps with and without it, one sample, one row.

    python benchmarks/telemetry.py                  two minutes on two cores
    python benchmarks/telemetry.py --rounds 20      half a minute

Each run is a process of its own, and they take their steps in turn, so whatever else the machine does falls on all of
them. Without a GPU: what a driver's library costs is not in these figures.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from reporting import header, median_interval, positive, table
from turns import Turns
from worker import Worker

from bigrun import hookimpl
from bigrun.config import Document
from bigrun.data.dataset import Samples
from bigrun.session import run_training
from bigrun.testing.runner import TINY, SyntheticImages
from bigrun_telemetry.flags import judge
from bigrun_telemetry.history import History
from bigrun_telemetry.progress import Progress
from bigrun_telemetry.rows import Rows
from bigrun_telemetry.sample import Sample
from bigrun_telemetry.sampler import Sampler
from bigrun_telemetry.sources import Sources, openers

if TYPE_CHECKING:
    from bigrun.run import Run

WITHOUT, AGAIN = "without", "without, again"
WAYS: dict[str, float | None] = {WITHOUT: None, AGAIN: None, "every 10 s": 10.0, "every 0.1 s": 0.1}
DAYS, INTERVAL_SECONDS = 15, 10
GIB = 2**30
# A row of a GPU: as long as it gets.
GPU_ROW = Sample(
    gpu_temperature_celsius=71.0, gpu_hotspot_celsius=83.0, gpu_memory_celsius=78.0, gpu_slowdown_celsius=90.0,
    gpu_power_watts=412.345, gpu_power_limit_watts=450.0, gpu_energy_joules=123456789.123, gpu_clock_mhz=2520.0,
    gpu_clock_max_mhz=3120.0, gpu_memory_clock_mhz=10501.0, gpu_busy_fraction=0.98, gpu_memory_busy_fraction=0.54,
    gpu_memory_used_bytes=22 * GIB, gpu_memory_total_bytes=24 * GIB, gpu_fan_fraction=0.62, gpu_fan_rpm=2100.0,
    gpu_throttle=("power-cap",), torch_allocated_bytes=17 * GIB, torch_reserved_bytes=19 * GIB,
    torch_peak_bytes=18 * GIB, torch_alloc_retries=0, torch_ooms=0, cpu_temperature_celsius=71.5, fan_rpm=1200.0,
    activity="step", standstill_seconds=0.0,
    images_per_second_1min=123.456, images_per_second_5min=123.456, images_per_second_run_median=123.456,
    speed_fraction=0.998, kinds_of_steps=2, step_p50_ms=512.345, step_p95_ms=523.456, step_max_ms=1234.567,
    data_wait_fraction=0.012, data_wait_usual_fraction=0.012, observe_fraction=0.001, h2d_bytes_per_second=12345678.9,
    h2d_fraction=0.001, model_tflops_per_second=12.345, mfu_fraction=0.234, mfu_of_measured_fraction=0.345,
    loss_is_finite=True, checkpoint_age_seconds=1234.567, step=123456,
)  # fmt: skip


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=positive, default=80, help="measured rounds  [80]")
    parser.add_argument("--steps", type=positive, default=20, help="steps of each run in a round  [20]")
    parser.add_argument("--samples", type=positive, default=300, help="samples to be measured  [300]")
    parser.add_argument("--worker", choices=list(WAYS), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = arguments()
    if options.worker is not None:
        work(WAYS[options.worker])
        return
    print(header("Telemetry: a tiny model on the CPU, one thread"), flush=True)
    print(f"\n{step_table(options.rounds, options.steps)}\n")
    with tempfile.TemporaryDirectory() as scratch:
        print(sample_table(Path(scratch), options.samples))


# -- steps --------------------------------------------------------------------------------------------------------


class OnDemand:
    """A companion of the run: its loader waits for orders."""

    def __init__(self) -> None:
        self.turns = Turns()

    @hookimpl(tryfirst=True)
    def build_dataset(self, run: Run) -> SyntheticImages:
        return SyntheticImages()

    @hookimpl(tryfirst=True)
    def build_loader(self, run: Run) -> Iterator[Samples]:
        images, size = SyntheticImages(), run.config.data.effective_batch
        numbers = torch.arange(size)
        samples = Samples.pack([images[i] for i in range(size)], numbers, torch.zeros_like(numbers))
        self.turns.say(kind="ready")
        for _ in self.turns:
            yield samples
        raise SystemExit


def work(interval_seconds: float | None) -> None:
    """Train in this process, step by step."""
    tables = {name: dict(table) for name, table in TINY.items()}
    tables["run"] |= {"max_steps": 10**6, "checkpoint_every_steps": 10**6, "log_every_steps": 10}
    tables["data"]["micro_batch"] = tables["data"]["effective_batch"]
    plugins = {} if interval_seconds is None else {"telemetry": {"interval_seconds": interval_seconds}}
    with tempfile.TemporaryDirectory() as scratch:
        document = Document("benchmark", "benchmark", {**tables, "plugins": plugins})
        run_training(document, Path(scratch) / "run", companions={"on-demand": OnDemand()})


def step_table(rounds: int, steps: int) -> str:
    """Medians over the rounds; in brackets the 95 % interval of the median ratio to a run without."""
    workers = {
        name: Worker(name, [sys.executable, __file__, "--worker", name], {"OMP_NUM_THREADS": "1"}) for name in WAYS
    }
    try:
        for worker in workers.values():
            worker.order(steps)
        orders = itertools.islice(itertools.cycle(itertools.permutations(workers)), rounds)
        taken = [{name: workers[name].order(steps) for name in order} for order in orders]
    finally:
        for worker in workers.values():
            worker.close()
    rows = []
    for name in WAYS:
        row = [name]
        for kind in ("seconds", "cpu_seconds"):
            own, plain = ([getattr(answers[way], kind) for answers in taken] for way in (name, WITHOUT))
            middle, low, high = median_interval([a / b for a, b in zip(own, plain, strict=True)])
            row += [f"{1e3 * statistics.median(own) / steps:.2f}", f"{middle:.4f} ({low:.4f} to {high:.4f})"]
        rows.append(row)
    return table(("telemetry", "wall ms / step", "ratio", "CPU ms / step", "ratio"), rows)


# -- samples ------------------------------------------------------------------------------------------------------


def sample_table(scratch: Path, count: int) -> str:
    """CPU time of a sample and its parts, with all threads; bytes of a row, and of the rows of a long run."""
    state = (1, "step")
    progress = Progress(lambda: state, INTERVAL_SECONDS)
    sources = Sources(openers(None, scratch), lambda event: None)
    sampler = Sampler(partial(Sources, openers(None, scratch)), progress, rows(scratch), judge, INTERVAL_SECONDS)
    seen = sources.read()
    full = seen.filled(GPU_ROW)
    history, tick = History(), itertools.count()

    def fold() -> None:
        history.add(full.filled(Sample(elapsed_seconds=float(INTERVAL_SECONDS * next(tick)))))
        judge(history, "nvidia")

    for _ in range(400):  # more than an hour of them
        fold()
    parts: dict[str, Callable[[], object]] = {
        "read the host": sources.read,
        "progress of the run": progress.read,
        "history and flags": fold,
        "row to the file": lambda: rows(scratch).add(full.line()),
        "a whole sample": sampler.take,
    }
    lines = [[name, f"{cpu_us(part, count):.0f}", ""] for name, part in parts.items()]
    number = DAYS * 24 * 3600 // INTERVAL_SECONDS
    stamped = Sample(time_utc="2026-01-01T00:00:00.000+00:00", elapsed_seconds=123456.789, flags=())
    no_gpu = {name: value for name, value in full.known().items() if not name.startswith(("gpu_", "torch_"))}
    for name, sample in {"row without a GPU": Sample(**no_gpu), "row with a GPU": full}.items():
        size = len(stamped.filled(sample).line()) + 1
        lines.append([name, "", f"{size:,} bytes; {DAYS} days: {number:,} rows, {size * number / 1e6:.0f} MB"])
    sampler.end()
    return table(("part", "CPU us", "size"), lines)


def rows(scratch: Path) -> Rows:
    return Rows(scratch, scratch, 0, GIB)


def cpu_us(function: Callable[[], object], count: int) -> float:
    """Median over tenths of the calls."""
    means = []
    for _ in range(10):
        began = time.process_time()
        for _ in range(max(count // 10, 1)):
            function()
        means.append((time.process_time() - began) / max(count // 10, 1))
    return 1e6 * statistics.median(means)


if __name__ == "__main__":
    main()
