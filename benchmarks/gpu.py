"""One GPU: does it do what the documentation says, and what does a training step cost on it?

    python benchmarks/gpu.py                         one NVIDIA or AMD GPU, under ten minutes, JSON lines
    python benchmarks/gpu.py --checks                the checks alone
    python benchmarks/gpu.py --only two-view         the checks and rows whose name has one of these words
    python benchmarks/gpu.py --device cpu --tiny     the same on the CPU with tiny networks, for a test

First the checks (gpu_checks/): each is a claim, and says pass, fail or skip, and why. Then as many rows of speed as the
time allows: images per second, share of the device's peak, memory. Exit code 1: a check has failed.

Every check and every row is a process of its own, which is killed when its time is over. Rows train on crops of random
numbers that are on the device already; a batch that does not fit is halved and tried again. `mfu` is images/s times the
FLOPs of `bigrun.planner.flops` over the device's peak; drop path is off unless the row says so, because it computes
less than that.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
from gpu_checks.catalogue import CHECKS
from gpu_checks.check import Check
from gpu_checks.examine import LEAST_SECONDS, examine
from gpu_checks.facts import device_facts
from gpu_checks.recipe import TINY, TINY_BATCH, TINY_PROTOTYPES
from learning_setups import section
from worker import Answer, Worker, WorkerError

from bigrun.config import read_preset
from bigrun.planner.flops import step_flops
from bigrun.planner.gpus import peak_flops
from bigrun.sections import Model, Views

HERE = Path(__file__).resolve().parent
GIB = 2**30


@attrs.frozen
class Row:
    """One measurement."""

    name: str
    preset: str
    batch: int
    compiled: bool = False
    checkpointing: str = "none"
    two_views: bool = False
    drop_path: float = 0.0
    target: float | None = None
    """Images/s on an H200."""

    def sets(self, options: argparse.Namespace) -> list[str]:
        """Overrides of the preset."""
        return [
            *(TINY if options.tiny else []),
            f"data.effective_batch={self.batch}",
            f"data.micro_batch={self.batch}",
            "data.workers=0",
            "run.log_every_steps=100000",
            f"hardware.device='{options.device}'",
            "hardware.precision='bf16'",
            f"hardware.activation_checkpointing='{self.checkpointing}'",
            f"model.drop_path_fraction={self.drop_path}",
        ]


ROWS = [
    Row("ViT-L full recipe, compiled", "vit_large", 64, compiled=True, target=240),
    Row("ViT-L two-view without teacher, compiled", "vit_large", 384, compiled=True, two_views=True, target=550),
    Row("ViT-L full recipe", "vit_large", 64),
    Row("ViT-L full recipe, checkpointing", "vit_large", 128, checkpointing="full"),
    Row(
        "ViT-L full recipe, selective checkpointing, compiled",
        "vit_large",
        128,
        compiled=True,
        checkpointing="selective",
    ),
    Row("ViT-L full recipe, drop path 0.3, compiled", "vit_large", 64, compiled=True, drop_path=0.3),
    Row("ViT-S full recipe", "vit_small", 128),
    Row("ViT-S full recipe, compiled", "vit_small", 128, compiled=True),
    Row("ViT-S full recipe, checkpointing", "vit_small", 256, checkpointing="full"),
    Row("ViT-Giant full recipe, checkpointing, compiled", "vit_giant", 32, compiled=True, checkpointing="full"),
    Row("ViT-Giant full recipe", "vit_giant", 16),
    Row("ViT-L two-view without teacher", "vit_large", 384, two_views=True),
]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cuda is an AMD GPU too  [cuda]")
    parser.add_argument("--tiny", action="store_true", help="tiny networks, for a test: the numbers mean nothing")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="WORD", help="checks and rows that have one of these words"
    )
    parser.add_argument("--checks", action="store_true", help="no rows of speed")
    parser.add_argument("--no-compile", action="store_true", help="without the compiled rows")
    parser.add_argument("--steps", type=int, default=8, help="measured steps of a row  [8]")
    parser.add_argument("--seconds", type=float, default=560.0, help="for everything; the rest is skipped  [560]")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    deadline = time.monotonic() + options.seconds
    facts = device_facts(options.device)
    say(benchmark="gpu.py", date=f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}", **facts)
    if facts["device"] is None:
        say(skip="torch sees no GPU here; --device cpu --tiny tries the script itself")
        return 0
    results: Counter[str] = Counter()
    for found in examine(chosen_checks(options), options.device, tiny=options.tiny, deadline=deadline):
        results[found["result"]] += 1
        say(**found)
    if results:
        say(checks=dict(results))
    for row in [] if options.checks else chosen(options):
        left = deadline - time.monotonic()
        over = {"name": row.name, "skip": f"{options.seconds:.0f} seconds are over"}
        say(**(measure(row, options, facts, deadline) if left > LEAST_SECONDS else over))
    return 1 if results["fail"] else 0


def chosen_checks(options: argparse.Namespace) -> list[Check]:
    return [check for check in CHECKS if is_wanted(check.name, options)]


def chosen(options: argparse.Namespace) -> Iterator[Row]:
    for row in ROWS:
        if is_wanted(row.name, options) and not (row.compiled and options.no_compile):
            yield attrs.evolve(row, batch=TINY_BATCH) if options.tiny else row


def is_wanted(name: str, options: argparse.Namespace) -> bool:
    return not options.only or any(word.lower() in name.lower() for word in options.only)


def say(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


def measure(row: Row, options: argparse.Namespace, facts: dict[str, Any], deadline: float) -> dict[str, Any]:
    """The row's line; with a smaller batch than it asks for where that does not fit."""
    while True:
        try:
            worker, answer = steps(row, options, deadline)
        except WorkerError as error:
            if time.monotonic() > deadline:
                return {"name": row.name, "skip": f"{options.seconds:.0f} seconds were over before it had ended"}
            if "out of memory" not in str(error).lower() or row.batch == 1:
                return {"name": row.name, "batch": row.batch, "error": str(error)[-600:]}
            row = attrs.evolve(row, batch=row.batch // 2)
            continue
        return line(row, options, facts, worker, answer)


def steps(row: Row, options: argparse.Namespace, deadline: float) -> tuple[Worker, Answer]:
    """Warm-up steps, in which blocks are compiled, and then the measured ones."""
    with tempfile.TemporaryDirectory(prefix="bigrun-gpu-") as scratch:
        spec = {
            "preset": row.preset,
            "sets": row.sets(options),
            "prototypes": TINY_PROTOTYPES if options.tiny else None,
            "compiled": row.compiled,
            "two_views": row.two_views,
        }
        path = Path(scratch) / "spec.json"
        path.write_text(json.dumps(spec), encoding="utf-8")
        words = [sys.executable, str(HERE / "step_bigrun.py"), str(path)]
        worker = Worker(row.name, words, {}, limit_seconds=max(deadline - time.monotonic(), 0.0))
        try:
            worker.order(steps=3)
            return worker, worker.order(steps=options.steps, peak=True)
        finally:
            worker.close()


def line(
    row: Row, options: argparse.Namespace, facts: dict[str, Any], worker: Worker, answer: Answer
) -> dict[str, Any]:
    tables = read_preset(row.preset, row.sets(options)).tables
    model, views = section(tables, "model", Model), section(tables, "views", Views)
    if row.two_views:
        views = attrs.evolve(views, local_crops=0)
    flops = step_flops(model, views, teacher=not row.two_views)
    speed = options.steps * row.batch / answer.seconds
    peak = peak_flops(facts["device"])
    return {
        **attrs.asdict(row),
        "parameters": worker.ready["parameters"],
        "images_per_second": four(speed),
        "seconds_per_step": four(answer.seconds / options.steps),
        "tflop_per_image": four(flops / 1e12),
        "tflop_per_second": four(speed * flops / 1e12),
        "mfu": None if peak is None else four(speed * flops / peak),
        "peak_gpu_gib": None if answer.peak_gpu_bytes is None else round(answer.peak_gpu_bytes / GIB, 2),
        "peak_rss_gib": round(answer.peak_rss_bytes / GIB, 2),
    }


def four(value: float) -> float:
    """Four significant digits."""
    return float(f"{value:.4g}")


if __name__ == "__main__":
    sys.exit(main())
