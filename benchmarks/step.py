"""What a training step costs: bigrun, compiled and not, and lightly-train's dinov2 method, in time and in memory.

    python benchmarks/step.py --peer-python PEER/bin/python       about half an hour on 2 cores
    python benchmarks/step.py --model tiny --rounds 2             seconds, for a test: the numbers mean nothing

A step is what a run does with crops that are there: teacher, student, losses, gradients, optimizer, moving average. All
workers are alive at once and take their steps in turn; memory is measured in processes of their own, one at a time.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from learning_setups import section
from peer_python import installed_versions
from PIL import Image
from reporting import header, median_interval, positive, table
from worker import Answer, Worker

from bigrun.config import read_preset
from bigrun.sections import Model, Views

HERE = Path(__file__).resolve().parent
EAGER, COMPILED = "bigrun", "bigrun, compiled"
PEER, PEER_SAME = "lightly-train", "lightly-train, our objective"
GIB = 2**30

# Preset, and its overrides.
MODELS = {
    "vit_small": ("vit_small", ["data.effective_batch=16", "data.micro_batch=16"]),
    "tiny": (
        "vit_small",
        [
            *("data.effective_batch=4", "data.micro_batch=4", "views.global_size_px=32", "views.local_size_px=16"),
            *("model.width=32", "model.depth=2", "model.heads=2", "model.ffn_hidden=64"),
            *("objective.head_hidden=32", "objective.head_bottleneck=16"),
        ],
    ),
}
PRESET_PROTOTYPES = 8192  # what vit_small's rule chooses for its effective batch of 256


@attrs.frozen
class Variant:
    """One worker's command and specification."""

    words: Sequence[str]
    spec: Mapping[str, Any]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peer-python", type=Path, help="Python of an environment that has lightly-train")
    parser.add_argument("--model", choices=sorted(MODELS), default="vit_small")
    parser.add_argument("--prototypes", nargs="+", type=positive, default=[PRESET_PROTOTYPES, 65536], help="of a head")
    parser.add_argument("--rounds", type=positive, default=8, help="measured steps of each  [8]")
    parser.add_argument("--warmup-rounds", type=positive, default=2, help="steps before them  [2]")
    parser.add_argument("--threads", type=positive, default=os.cpu_count() or 1, help="CPU threads  [all cores]")
    parser.add_argument("--no-compile", action="store_true", help="leave the compiled row out")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    print(header(f"One training step: {options.model}, bf16, threads: {options.threads}"))
    peer = installed_versions(options.peer_python, "lightly-train", "torch")
    print(f"peer      {peer or 'lightly-train: not installed (--peer-python)'}", flush=True)
    with tempfile.TemporaryDirectory(prefix="bigrun-step-") as scratch:
        for prototypes in options.prototypes:
            planned = variants(options, prototypes, Path(scratch))
            print(f"\n{prototypes} prototypes", flush=True)
            memory = {
                name: measured_memory(name, variant, Path(scratch), options.threads)
                for name, variant in planned.items()
            }
            print(step_table(measured_time(planned, options, Path(scratch)), memory, batch_size(options)), flush=True)
    return 0


def batch_size(options: argparse.Namespace) -> int:
    preset, sets = MODELS[options.model]
    return int(read_preset(preset, sets).tables["data"]["effective_batch"])


def variants(options: argparse.Namespace, prototypes: int, scratch: Path) -> dict[str, Variant]:
    """Those that can run here."""
    preset, sets = MODELS[options.model]
    hardware = ["hardware.device='cpu'", "hardware.precision='bf16'", f"hardware.threads={options.threads}"]
    sets = [*sets, *hardware, "data.workers=0", "run.log_every_steps=1000"]
    ours = [sys.executable, str(HERE / "step_bigrun.py")]
    spec = {"preset": preset, "sets": sets, "prototypes": prototypes, "two_views": False}
    found = {EAGER: Variant(ours, {**spec, "compiled": False})}
    if not options.no_compile:
        found[COMPILED] = Variant(ours, {**spec, "compiled": True})
    if options.peer_python:
        words = [str(options.peer_python), str(HERE / "peers" / "lightly_dinov2.py"), "step"]
        base = peer_spec(read_preset(preset, sets).tables, options, scratch)
        heads = base["method_args"] | {"output_dim": prototypes}
        same = heads | {"center_method": "sinkhorn_knopp", "ibot_separate_head": True}
        found[PEER] = Variant(words, {**base, "method_args": heads})
        found[PEER_SAME] = Variant(words, {**base, "method_args": same})
    return found


def peer_spec(tables: Mapping[str, Any], options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """The same shapes for peers/lightly_dinov2.py. Its data set is never read: it is there to be counted."""
    batch = tables["data"]["effective_batch"]
    images = scratch / "images"
    images.mkdir(exist_ok=True)
    for number in range(batch):
        Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(images / f"{number}.png")
    heads = {"head_hidden": 2048, "head_bottleneck": 256, **tables.get("objective", {})}
    return {
        "images": str(images),
        "batch": batch,
        "steps": 100_000,
        "seed": 0,
        "threads": options.threads,
        "precision": "bf16-mixed",
        "model": attrs.asdict(section(tables, "model", Model)),
        "views": attrs.asdict(section(tables, "views", Views)),
        "optim_args": {},
        "method_args": {
            "hidden_dim": heads["head_hidden"],
            "dino_bottleneck_dim": heads["head_bottleneck"],
            "ibot_bottleneck_dim": heads["head_bottleneck"],
        },
    }


def measured_time(
    planned: Mapping[str, Variant], options: argparse.Namespace, scratch: Path
) -> dict[str, list[Answer]]:
    """One step of each per round, in an order that changes."""
    workers = {name: start(name, variant, scratch, options.threads) for name, variant in planned.items()}
    try:
        for worker in workers.values():
            worker.order(steps=options.warmup_rounds)
        answers: dict[str, list[Answer]] = {name: [] for name in workers}
        orders = itertools.cycle(itertools.permutations(workers))
        for order in itertools.islice(orders, options.rounds):
            for name in order:
                answers[name].append(workers[name].order(steps=1))
    finally:
        for worker in workers.values():
            worker.close()
    return answers


@attrs.frozen
class Memory:
    """Bytes of a worker: resident before there was a network, the most that was resident in a step, and the most that
    torch's allocator gave out."""

    start: int
    peak: int
    torch: int


def measured_memory(name: str, variant: Variant, scratch: Path, threads: int) -> Memory:
    """Of a step that is not among the first: the resident memory that a user sees, with what the heap keeps of earlier
    steps, and what torch's allocator gave out."""
    worker = start(name, variant, scratch, threads)
    try:
        worker.order(steps=2)
        resident, profiled = worker.order(steps=1, peak=True), worker.order(steps=1, profile=True)
        assert profiled.torch_peak_bytes is not None
        return Memory(worker.ready["start_rss_bytes"], resident.peak_rss_bytes, profiled.torch_peak_bytes)
    finally:
        worker.close()


def start(name: str, variant: Variant, scratch: Path, threads: int) -> Worker:
    path = scratch / f"{name.replace(' ', '_').replace(',', '')}.json"
    path.write_text(json.dumps(variant.spec), encoding="utf-8")
    return Worker(name, [*variant.words, str(path)], {"OMP_NUM_THREADS": str(threads)})


def step_table(answers: Mapping[str, Sequence[Answer]], memory: Mapping[str, Memory], batch: int) -> str:
    """Ratios are to the peer of equal work; medians over the rounds, in brackets their 95 % interval."""
    base = PEER_SAME if PEER_SAME in answers else EAGER
    rows = []
    for name, taken in answers.items():
        row = [name, f"{batch / statistics.median(a.seconds for a in taken):.2f}"]
        for kind in ("seconds", "cpu_seconds"):
            pairs = zip(answers[base], taken, strict=True)
            middle, low, high = median_interval([getattr(b, kind) / getattr(a, kind) for b, a in pairs])
            row.append(f"{middle:.2f} ({low:.2f} to {high:.2f})" if name != base else "1")
        ours, theirs = memory[name], memory[base]
        row += [f"{ours.peak / GIB:.2f}", f"{ours.start / GIB:.2f}", f"{ours.peak / theirs.peak:.2f}"]
        row += [f"{ours.torch / GIB:.2f}", f"{ours.torch / theirs.torch:.2f}"]
        rows.append([*row, target(name, base)])
    titles = (
        "",
        "images / s",
        "speed",
        "speed, CPU time",
        "RSS GiB",
        "at start",
        "ratio",
        "torch GiB",
        "ratio",
        "targets",
    )
    return table(titles, rows)


def target(name: str, base: str) -> str:
    """Of the ratios of speed and memory."""
    return ">= 1.5, <= 1" if base == PEER_SAME and name in (EAGER, COMPILED) else ""


if __name__ == "__main__":
    sys.exit(main())
