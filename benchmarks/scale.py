"""Two processes of one run beside one: throughput, memory of each, bytes they send, and what `bigrun plan` says of it.

    python benchmarks/scale.py                            under six minutes on two cores, or on two GPUs
    python benchmarks/scale.py --model tiny --rounds 2    half a minute, for a test: the numbers mean nothing

On a CPU each process has one thread, and two talk through gloo; on GPUs each has one, and two talk through NCCL. All
rows are alive at once and take a step each in turn, in an order that changes; both processes of a row step together.
`two alone` are two runs of one process at the same time, which say nothing to each other: what the machine makes of
twice the work without any communication.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from reporting import header, median_interval, positive, table
from scale_groups import Group, Setup, link_seconds
from scale_model import Kind, Prediction, predict_row

from bigrun.planner.communication import Collective
from bigrun.planner.efficiency import Efficiency

MIB, GB = 2**20, 1e9
ALONE, WHOLE, TWO_ALONE = "one, half of the batch", "one, the whole batch", "two alone, half each"
SHARED = {
    "two, ddp": ["parallel.strategy=ddp"],
    "two, fsdp full": ["parallel.strategy=fsdp", "parallel.shard=full"],
    "two, fsdp grads": ["parallel.strategy=fsdp", "parallel.shard=grads"],
}
# Preset, and its overrides.
MODELS = {
    "vit_small": ("vit_small", ["views.global_size_px=96", "views.local_size_px=48", "views.local_crops=4"]),
    "vit_large": ("vit_large", []),
    "tiny": (
        "vit_small",
        [
            *("views.global_size_px=32", "views.local_size_px=16", "views.local_crops=2"),
            *("model.width=32", "model.depth=2", "model.heads=2", "model.ffn_hidden=64"),
            *("objective.head_hidden=32", "objective.head_bottleneck=16"),
        ],
    ),
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=sorted(MODELS), default="vit_small")
    parser.add_argument("--batch", type=positive, default=8, help="images of a step, of all processes; even  [8]")
    parser.add_argument("--accumulate", type=positive, default=1, help="micro-batches of each of two processes  [1]")
    parser.add_argument("--rounds", type=positive, default=10, help="measured steps of each row  [10]")
    parser.add_argument("--precision", choices=["fp32", "bf16"], help="[fp32 on a CPU, bf16 on GPUs]")
    parser.add_argument("--strategies", nargs="+", choices=list(SHARED), default=list(SHARED))
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    device = chosen_device(options.device)
    precision = options.precision or ("fp32" if device == "cpu" else "bf16")
    title = f"One and two processes: {options.model}, {precision}, {options.batch} images a step, on "
    print(header(title + ("a CPU, one thread each" if device == "cpu" else "GPUs")), flush=True)
    setups = planned(options, device, precision)
    predictions = {name: predict_row(setup, device) for name, setup in setups.items()}
    with tempfile.TemporaryDirectory(prefix="bigrun-scale-") as scratch:
        each = link_seconds(predictions.values(), device, Path(scratch))
        groups = {name: Group(name, setup, Path(scratch)) for name, setup in setups.items()}
        try:
            seconds, memory = measured(groups, options.rounds)
        finally:
            for group in groups.values():
                group.close()
        sent = {name: group.payloads() for name, group in groups.items()}
    print("\n" + speed_table(seconds, options.batch))
    print("\n" + memory_table(memory, predictions))
    print("\n" + traffic_table(sent, predictions))
    print("\n" + link_table(each))
    print("\n" + model_table(seconds, predictions, each, device))
    return 0


def chosen_device(wish: str) -> str:
    """`cuda` where there are two GPUs, unless another is asked for."""
    import torch

    if wish == "auto":
        return "cuda" if torch.cuda.device_count() > 1 else "cpu"
    if wish == "cuda" and torch.cuda.device_count() < 2:
        sys.exit("scale.py: --device cuda: expected two GPUs")
    return wish


def planned(options: argparse.Namespace, device: str, precision: str) -> dict[str, Setup]:
    """The rows. A run of one process takes as many images at a time as each of two."""
    preset, sets = MODELS[options.model]
    micro = max(options.batch // 2 // options.accumulate, 1)
    fixed = [
        *sets,
        f"data.micro_batch={micro}",
        f"hardware.device={device}",
        f"hardware.precision={precision}",
        "hardware.threads=1",
        "data.workers=0",
        "objective.koleo_group=2",
        f"objective.prototypes={128 * options.batch}",  # the most that half of the batch may have
        f"objective.ibot_prototypes={128 * options.batch}",
        "run.log_every_steps=100000",
        "run.checkpoint_every_steps=100000",
    ]
    half, whole = [[*fixed, f"data.effective_batch={size}"] for size in (options.batch // 2, options.batch)]
    rows = {
        ALONE: Setup(preset, half),
        WHOLE: Setup(preset, whole),
        TWO_ALONE: Setup(preset, half, processes=2, alone=True),
    }
    return rows | {name: Setup(preset, [*whole, *SHARED[name]], processes=2) for name in options.strategies}


def measured(
    groups: Mapping[str, Group], rounds: int
) -> tuple[dict[str, list[float]], dict[str, tuple[list[int], list[int]]]]:
    """Seconds of a step by row, and of each process the resident memory and what torch's allocator gave out."""
    for group in groups.values():
        group.order(steps=3)  # the second one's collectives are counted
    seconds: dict[str, list[float]] = {name: [] for name in groups}
    orders = itertools.cycle(itertools.permutations(groups))
    for order in itertools.islice(orders, 0, rounds * 37, 37):  # neighbours among permutations are alike
        for name in order:
            seconds[name].append(max(answer.seconds for answer in groups[name].order(steps=1)))
    memory = {}
    for name, group in groups.items():
        resident = [answer.peak_rss_bytes for answer in group.order(steps=1, peak=True)]
        if group.is_on_gpu:
            torch_peaks = [answer.peak_gpu_bytes or 0 for answer in group.order(steps=1)]
        else:
            torch_peaks = [answer.torch_peak_bytes or 0 for answer in group.order(steps=1, profile=True)]
        memory[name] = (resident, torch_peaks)
    return seconds, memory


def speed_table(seconds: Mapping[str, Sequence[float]], batch: int) -> str:
    """Medians over the rounds, in brackets their 95 % interval."""
    rows = []
    for name, taken in seconds.items():
        images = batch / 2 if name == ALONE else batch
        row = [name, f"{images / statistics.median(taken):.2f}", f"{1000 * statistics.median(taken):.0f}"]
        for base, factor in ((WHOLE, 0.5), (ALONE, 1.0), (TWO_ALONE, 1.0)):
            is_shown = name in SHARED or (name == TWO_ALONE and base == ALONE)
            ratios = [100 * factor * b / t for b, t in zip(seconds[base], taken, strict=True)]
            row.append("{:.0f} ({:.0f} to {:.0f})".format(*median_interval(ratios)) if is_shown else "")
        rows.append(row)
    return table(("", "images / s", "ms / step", "strong, %", "weak, %", "of two alone, %"), rows)


def memory_table(memory: Mapping[str, tuple[list[int], list[int]]], predictions: Mapping[str, Prediction]) -> str:
    """Of the process that takes most."""
    rows = []
    for name, (resident, peaks) in memory.items():
        planned_bytes, most = predictions[name].peak_bytes, max(peaks)
        cells = [max(resident) / MIB, most / MIB, planned_bytes / MIB]
        rows.append([name, *(f"{cell:.1f}" for cell in cells), f"{100 * (planned_bytes / most - 1):+.1f}"])
    return table(("memory of a process", "RSS MiB", "torch MiB", "planned MiB", "off, %"), rows)


def traffic_table(sent: Mapping[str, Mapping[str, int]], predictions: Mapping[str, Prediction]) -> str:
    """Payloads of a step, counted and planned, in bytes."""
    rows = []
    for name, counted in sent.items():
        for operation, size in counted.items():
            expected = predictions[name].payloads.get(operation, 0)
            rows.append([f"{name}: {operation}", f"{size:,}", f"{expected:,}", f"{size - expected:,}"])
    return table(("payload of a step", "counted", "planned", "difference"), rows)


def link_table(each: Mapping[Kind, float]) -> str:
    """Collectives with their copies, measured before the rows; what each of two processes sends in a ring over the time
    is `busbw` of nccl-tests."""
    rows = []
    for (operation, size), taken in each.items():
        sent = Collective("", operation, size, 1, 2).sent_bytes
        rows.append([f"{operation} of {size / 1e6:.3g} MB", f"{1000 * taken:.3g}", f"{sent / taken / GB:.2g}"])
    return table(("one collective", "ms", "GB/s"), rows)


def model_table(
    seconds: Mapping[str, Sequence[float]],
    predictions: Mapping[str, Prediction],
    each: Mapping[Kind, float],
    device: str,
) -> str:
    """Efficiency beside two that say nothing to each other, which have the same of the machine: planned bounds, and
    measured. On a CPU nothing overlaps: the upper bound is the lower one."""
    rows = []
    for name in (name for name in seconds if name in SHARED):
        computing = statistics.median(seconds[TWO_ALONE])
        talking = predictions[name].seconds(each)
        ratios = [100 * b / t for b, t in zip(seconds[TWO_ALONE], seconds[name], strict=True)]
        efficiency = Efficiency(computing, talking)
        bounds = f"{100 * efficiency.least:.0f}" + ("" if device == "cpu" else f" to {100 * efficiency.most:.0f}")
        measured = "{:.0f} ({:.0f} to {:.0f})".format(*median_interval(ratios))
        rows.append([name, f"{1000 * talking:.0f}", bounds, measured])
    return table(("efficiency", "sending, ms", "planned, %", "measured, %"), rows)


if __name__ == "__main__":
    sys.exit(main())
