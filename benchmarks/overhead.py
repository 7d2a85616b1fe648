"""What the engine costs per step, against a plain PyTorch loop that does the same mathematics.

    python benchmarks/overhead.py                              four minutes of CPU time
    python benchmarks/overhead.py --model tiny --rounds 100    the same microseconds over a short step: half a minute

All loops live in this process and take their steps in turn, so whatever else the machine does falls on all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from engine_loop import EngineLoop
from memory import keep_freed_memory
from plain_loop import PlainLoop
from progress_bar import bar_cost
from reporting import header, median_interval, positive, table
from stepping import Seconds, Stepper

from bigrun.config import Document, read_preset
from bigrun.data.dataset import Samples
from bigrun.data.draws import derive_seed
from bigrun.testing.runner import SyntheticImages

# Overrides of the quickstart preset, for a step of 100 to 300 ms on one core, and for one of about 10 ms.
MODELS = {
    "quickstart": ["data.effective_batch=16"],
    "tiny": [
        *("data.effective_batch=4", "views.global_size_px=32", "views.local_size_px=16", "views.local_crops=2"),
        *("model.width=32", "model.depth=2", "model.heads=2", "model.ffn_hidden=64"),
        *("objective.head_hidden=32", "objective.head_bottleneck=16", "objective.prototypes=64"),
    ],
}
OBSERVERS = ("console", "metrics-log", "tensorboard", "checkpoint-rotation")
PLAIN, AGAIN, ENGINE, WITH_PLUGINS = "plain loop", "plain loop, again", "engine", "engine + plugins"
TARGETS = {ENGINE: 1.01, WITH_PLUGINS: 1.02}
LOG_EVERY = 5  # steps, as in the preset; a round is that long, so that each has one flush of the metrics
WARMUPS = ["optimizer.warmup_steps=5", "objective.teacher_temperature_warmup_steps=5"]  # for runs of any length
DINO_ALONE = ["objective.ibot_weight=0.0", "objective.koleo_weight=0.0"]  # as the plain loop
MICRO_BATCHES = 8  # in memory
IMAGE_PX = 160
TOLERANCE = 1e-4


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=sorted(MODELS), default="quickstart")
    parser.add_argument("--rounds", type=positive, default=40, help=f"measured rounds of {LOG_EVERY} steps  [40]")
    parser.add_argument("--warmup-rounds", type=positive, default=2, help="rounds before them  [2]")
    parser.add_argument("--hook-rounds", type=positive, default=6, help="rounds in which hook calls are timed  [6]")
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads of torch  [1]")
    parser.add_argument("--bar-seconds", type=float, default=5.0, help="time to watch a progress bar  [5]")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    print(header(f"Loop overhead: {options.model} model, threads: {options.threads}"), flush=True)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as scratch, quiet(Path(scratch) / "console.txt"):
        loops = Loops(options, Path(scratch))
        loops.rounds(options.warmup_rounds)
        gc.collect()
        gc.freeze()  # a full collection takes 100 ms and would fall on whoever comes next
        measured = loops.rounds(options.rounds)
        hooks = loops.hook_rows(options.hook_rounds)
        largest, work = loops.compare()
        loops.finish()
    print(f"work      {work}\n")
    print(f"{step_table(measured)}\n")
    print(table(("hooks", "calls / step", "us / step", "% of a plain step"), hooks), end="\n\n")
    print(f"progress bar on a terminal: {100 * bar_cost(options.bar_seconds):.2f} % of one core")
    if not largest < TOLERANCE:
        print(f"the loops did not do the same work: they differ by {largest:.1e}", file=sys.stderr)
        return 1
    return 0


class Loops:
    """All loops by name, at the same step; the plain one twice, to show what the measurement can resolve."""

    def __init__(self, options: argparse.Namespace, scratch: Path) -> None:
        steps = (options.warmup_rounds + options.rounds + options.hook_rounds) * LOG_EVERY + 1
        sets = [
            *MODELS[options.model],
            *WARMUPS,
            *DINO_ALONE,
            f"run.max_steps={steps}",
            f"run.checkpoint_every_steps={steps}",
        ]
        sets += [f"hardware.threads={options.threads}", f"run.log_every_steps={LOG_EVERY}"]
        images, batches = decoded(sets)
        self.engines = {
            ENGINE: EngineLoop(document(sets, ()), scratch / "bare", images),
            WITH_PLUGINS: EngineLoop(document(sets, OBSERVERS), scratch / "plugins", images),
        }
        self.steppers = {name: Stepper(engine.train, batches) for name, engine in self.engines.items()}
        for stepper in self.steppers.values():
            stepper.start()
        run = self.engines[ENGINE].run
        self.plains = {name: PlainLoop(run.config, run.objective.student.state_dict()) for name in (PLAIN, AGAIN)}

        # The engine seeds torch's generator for every micro-batch, and the positions draw from it. A plain loop
        # would not do that: here it is done outside the measured time, so that both draw the same.
        def seed(step: int) -> None:
            torch.manual_seed(derive_seed(run.config.run.seed, "step", 0, step, 1))

        for name, plain in self.plains.items():
            self.steppers[name] = Stepper(plain.train, batches, before_step=seed)
            self.steppers[name].start()
        self.orders = itertools.cycle(itertools.permutations(self.steppers))

    def rounds(self, count: int) -> dict[str, list[Seconds]]:
        """What a step took, per loop; one mean for each round. The order changes with every step."""
        means: dict[str, list[Seconds]] = {name: [] for name in self.steppers}
        for _ in range(count):
            spent: dict[str, list[Seconds]] = {name: [] for name in self.steppers}
            for order in itertools.islice(self.orders, LOG_EVERY):
                for name in order:
                    spent[name].append(self.steppers[name].advance())
            for name, steps in spent.items():
                wall, cpu = (sum(getattr(s, kind) for s in steps) / LOG_EVERY for kind in ("wall", "cpu"))
                means[name].append(Seconds(wall, cpu))
        return means

    def hook_rows(self, count: int) -> list[list[str]]:
        """Calls and time of hooks."""
        with contextlib.ExitStack() as stack:
            timed = {name: stack.enter_context(engine.timed_hooks()) for name, engine in self.engines.items()}
            plain = statistics.median(s.wall for s in self.rounds(count)[PLAIN])
        rows = []
        for name, hooks in timed.items():
            calls, seconds = hooks.calls / count / LOG_EVERY, hooks.seconds / count / LOG_EVERY
            rows.append([name, f"{calls:.1f}", f"{1e6 * seconds:.0f}", f"{100 * seconds / plain:.3f}"])
        return rows

    def compare(self) -> tuple[float, str]:
        """The largest difference between the engine and the plain loop, after the same number of steps."""
        plain = self.plains[PLAIN]
        curve = torch.stack(plain.losses).double().view(-1, LOG_EVERY).mean(1)
        objectives = [engine.run.objective for engine in self.engines.values()]
        largest = {
            "loss": torch.stack([(torch.tensor(e.losses) - curve).abs().max() for e in self.engines.values()]).max(),
            "student": torch.stack([difference(o.student, plain.student) for o in objectives]).max(),
            "teacher": torch.stack([difference(o.teacher, plain.teacher) for o in objectives]).max(),
        }
        said = ", ".join(f"{name} {value:.1e}" for name, value in largest.items())
        text = f"{len(plain.losses)} steps each, loss {curve[0]:.4f} to {curve[-1]:.4f}; largest difference: {said}"
        return float(torch.stack([value.double() for value in largest.values()]).max()), text

    def finish(self) -> None:
        for stepper in self.steppers.values():
            stepper.finish()


@contextlib.contextmanager
def quiet(path: Path) -> Iterator[None]:
    """Let the console plugin write to a file, as in `bigrun run PRESET > file`."""
    with path.open("w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        yield


def document(sets: Sequence[str], plugins: Sequence[str]) -> Document:
    """The quickstart preset with these plugins alone."""
    preset = read_preset("quickstart", sets)
    return Document(preset.source, preset.name, {**preset.tables, "plugins": {name: {} for name in plugins}})


def decoded(sets: Sequence[str]) -> tuple[list[torch.Tensor], list[Samples]]:
    """Synthetic images, and the same as micro-batches."""
    size = document(sets, ()).tables["data"]["effective_batch"]
    source = SyntheticImages(MICRO_BATCHES * size, IMAGE_PX)
    images = [source[i] for i in range(len(source))]
    starts = range(0, len(images), size)
    epochs = torch.zeros(size, dtype=torch.int64)
    return images, [Samples.pack(images[i : i + size], torch.arange(i, i + size), epochs) for i in starts]


def difference(one: torch.nn.Module, other: torch.nn.Module) -> torch.Tensor:
    """Largest over all tensors; NaN if there is one."""
    theirs = other.state_dict()
    return torch.stack([(value - theirs[name]).abs().max() for name, value in one.state_dict().items()]).max()


def step_table(measured: Mapping[str, Sequence[Seconds]]) -> str:
    """Medians over the rounds; in brackets the 95 % interval of the median."""
    rows = []
    for name in (PLAIN, AGAIN, ENGINE, WITH_PLUGINS):
        pairs = list(zip(measured[name], measured[PLAIN], strict=True))
        row = [name, *(f"{1e3 * statistics.median(getattr(s, k) for s, _ in pairs):.2f}" for k in ("cpu", "wall"))]
        for kind in ("cpu", "wall"):
            middle, low, high = median_interval([getattr(a, kind) / getattr(b, kind) for a, b in pairs])
            row.append(f"{middle:.4f} ({low:.4f} to {high:.4f})" if name != PLAIN else "1")
        row.append(f"{1e6 * statistics.median(a.cpu - b.cpu for a, b in pairs):+.0f}" if name != PLAIN else "")
        rows.append([*row, f"<= {TARGETS[name]}" if name in TARGETS else ""])
    titles = ("loop", "CPU ms / step", "wall ms / step", "CPU ratio", "wall ratio", "CPU us / step more", "target")
    return table(titles, rows)


if __name__ == "__main__":
    sys.exit(main())
