"""What each observer costs: steps with it, beside steps without any, and the time in its own hooks.

    python benchmarks/observers.py                      a quarter of an hour on two cores
    python benchmarks/observers.py --only telemetry console
    python benchmarks/observers.py --quick              a tiny model, whose shares are not those of a real run

Observers are whatever is installed; one that cannot be used here is left out, with the reason. Each run is a process of
its own, and they take their steps in turn, so whatever else the machine does falls on all of them. All must have the
same losses, to the last bit.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch
from reporting import header, median_interval, positive, table
from turns import Turns
from worker import Answer, Worker, WorkerError

from bigrun import hookimpl
from bigrun.config import Document, read_preset
from bigrun.data.dataset import Samples
from bigrun.entry_points import installed
from bigrun.session import run_training
from bigrun.testing.runner import TINY, SyntheticImages

if TYPE_CHECKING:
    from bigrun.run import Run

WITHOUT, AGAIN, TOGETHER = "without", "without, again", "all of a usual run"
# They need something that a usual run has not, or do their work when it ends: measured alone, and not with the others.
UNUSUAL = {"wandb", "mlflow", "slurm-requeue", "learning-report"}
TARGET = 0.02
LOG_EVERY = 10
OVERRIDES = [
    *("data.effective_batch=16", "hardware.threads=1"),
    *("optimizer.warmup_steps=5", "objective.teacher_temperature_warmup_steps=5"),  # for runs of any length
]
IMAGES = {"quickstart": (64, 160), "tiny": (12, 40)}
"""How many, and their side."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=positive, default=30, help=f"measured rounds of {LOG_EVERY} steps  [30]")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these observers alone  [all that are installed]")
    parser.add_argument("--quick", action="store_true", help="a tiny model, and two rounds unless --rounds says more")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.rounds = 2 if options.rounds == parser.get_default("rounds") else options.rounds
    return options


def main() -> int:
    options = arguments()
    if options.worker is not None:
        work(Order(**json.loads(options.worker)))
        return 0
    model = "tiny" if options.quick else "quickstart"
    print(header(f"Observers: {model} model on the CPU, one thread, {options.rounds} rounds of {LOG_EVERY} steps"))
    with tempfile.TemporaryDirectory() as scratch, Ways(model, Path(scratch)) as ways:
        ways.open(observers(options.only))
        measured = ways.rounds(options.rounds)
        reports = ways.close()
    print(f"\n{cost_table({name: measured[name] for name in reports}, reports, ways.seconds)}\n")
    for name, reason in ways.left_out.items():
        print(f"left out: {name}: {reason}")
    plain = reports[WITHOUT]["losses"]
    changed = [name for name, report in reports.items() if report["losses"] != plain]
    print(f"losses of {len(plain)} rows: {'bit-identical' if not changed else 'CHANGED by ' + ', '.join(changed)}")
    return 1 if changed else 0


def observers(only: Sequence[str] | None) -> list[str]:
    """Names of what is installed, or of what was asked for."""
    known = [plugin.name for plugin in installed().values() if plugin.declared_kind() == "observer"]
    if unknown := sorted(set(only or ()) - set(known)):
        sys.exit(f"no such observer: {', '.join(unknown)}; installed: {', '.join(known)}")
    return [name for name in known if only is None or name in only]


# -- the parent's side ----------------------------------------------------------------------------------------------


@attrs.frozen
class Order:
    """What a worker is to do."""

    model: str
    plugins: list[str]
    report: str
    """The file for what it has to say at the end."""


class Ways:
    """A process for each way of training."""

    def __init__(self, model: str, scratch: Path) -> None:
        self.model = model
        self.scratch = scratch
        self.left_out: dict[str, str] = {}
        self.workers: dict[str, Worker] = {}
        self.seconds: dict[str, float] = {}
        """Of all steps, the first round included."""

    def __enter__(self) -> Ways:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers.values():
            worker.close()

    def open(self, names: Sequence[str]) -> None:
        """Start all; a first round shows which observers can be used here."""
        for way, plugins in {WITHOUT: [], AGAIN: [], **{name: [name] for name in names}}.items():
            self._start(way, plugins)
        usual = [name for name in names if name in self.workers and name not in UNUSUAL]
        if len(usual) > 1:
            self._start(TOGETHER, usual)

    def _start(self, way: str, plugins: list[str]) -> None:
        order = Order(self.model, plugins, str(self._report(way)))
        words = [sys.executable, __file__, "--worker", json.dumps(attrs.asdict(order))]
        try:
            self.workers[way] = Worker(way, words, {"OMP_NUM_THREADS": "1"})
            self.seconds[way] = self.workers[way].order(LOG_EVERY).seconds
        except WorkerError as error:
            if not plugins:
                raise
            self._leave_out(way, reason(error))

    def _leave_out(self, way: str, why: str) -> None:
        self.left_out[way] = why
        if way in self.workers:
            self.workers.pop(way).close()

    def rounds(self, count: int) -> dict[str, list[Answer]]:
        """What the steps took; who is first changes with every round."""
        taken: dict[str, list[Answer]] = {name: [] for name in self.workers}
        for turn in range(count):
            names = list(self.workers)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                try:
                    taken[name].append(self.workers[name].order(LOG_EVERY))
                except WorkerError as error:
                    self._leave_out(name, reason(error))
                else:
                    self.seconds[name] += taken[name][-1].seconds
        return taken

    def close(self) -> dict[str, Any]:
        """What the workers have to say at their end."""
        reports = {}
        for name, worker in list(self.workers.items()):
            worker.close()
            report = json.loads(self._report(name).read_text(encoding="utf-8"))
            if report["quarantined"]:
                self._leave_out(name, f"quarantined: {', '.join(report['quarantined'])}")
            else:
                reports[name] = report
        return reports

    def _report(self, way: str) -> Path:
        return self.scratch / f"{way}.json"


def reason(error: WorkerError) -> str:
    """The first line of what bigrun says, or the last of a traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if line.startswith("plugins.")), lines[-1])


def cost_table(
    measured: Mapping[str, Sequence[Answer]], reports: Mapping[str, Any], seconds: Mapping[str, float]
) -> str:
    """Shares of a step without observers: medians over the rounds with their 95 % interval, and the mean time in the
    observer's own hooks, which holds what is rare, too."""
    rows = []
    for name, taken in measured.items():
        row = [name]
        for kind in ("seconds", "cpu_seconds"):
            pairs = zip(taken, measured[WITHOUT], strict=True)
            shares = [100 * (getattr(own, kind) / getattr(plain, kind) - 1) for own, plain in pairs]
            middle, low, high = median_interval(shares)
            row.append("" if name == WITHOUT else f"{middle:+.2f} ({low:+.2f} to {high:+.2f})")
        report = reports[name]
        hooks = 100 * report["hook_seconds"] / seconds[name]
        row.append(f"{hooks:.2f}" if report["plugins"] else "")
        row.append(" ".join(str(every) for every in report["every_steps"]))
        row.append(f"<= {100 * TARGET:g}" if name == TOGETHER else "")
        rows.append(row)
    return table(("observer", "wall, %", "CPU, %", "own hooks, %", "acts every", "target"), rows)


# -- the worker's side ----------------------------------------------------------------------------------------------


class OnDemand:
    """A companion of the run: its loader waits for orders, and the time in the observers' hooks is counted."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.turns = Turns()
        self.losses: list[float] = []
        self.hook_seconds = 0.0
        count, side_px = IMAGES[order.model]
        self.images = SyntheticImages(count, side_px)

    @hookimpl(tryfirst=True)
    def build_dataset(self, run: Run) -> SyntheticImages:
        return self.images

    @hookimpl(tryfirst=True)
    def build_loader(self, run: Run) -> Iterator[Samples]:
        return self._samples(run)

    def _samples(self, run: Run) -> Iterator[Samples]:
        size = run.config.data.effective_batch
        numbers = torch.arange(size) % len(self.images)
        samples = Samples.pack([self.images[int(i)] for i in numbers], numbers, torch.zeros_like(numbers))
        self._count_hooks(run)
        self.turns.say(kind="ready")
        for _ in self.turns:
            yield samples
        self._report(run)
        raise SystemExit

    def _count_hooks(self, run: Run) -> None:
        """Of every hook that an observer answers from here on."""
        hooks = vars(run.plugins.manager.hook)
        for name in [name for name in hooks if not name.startswith("_")]:
            for implementation in hooks[name].get_hookimpls():
                if implementation.plugin_name in self.order.plugins:
                    implementation.function = self._timed(implementation.function)

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args)
            finally:
                self.hook_seconds += time.perf_counter() - began

        return timed

    @hookimpl
    def on_metrics(self, metrics: Mapping[str, float]) -> None:
        self.losses.append(metrics["loss"])

    def _report(self, run: Run) -> None:
        active = [run.plugins.active[name] for name in self.order.plugins if name in run.plugins.active]
        configs = [getattr(plugin, "config", None) for plugin in active]
        cadences = [getattr(each, "every_steps", None) for each in [*active, *configs]]
        facts = {
            "plugins": self.order.plugins,
            "quarantined": list(run.plugins.failures),
            "losses": self.losses,
            "hook_seconds": self.hook_seconds,
            "every_steps": list(dict.fromkeys(every for every in cadences if every)),
        }
        Path(self.order.report).write_text(json.dumps(facts), encoding="utf-8")


def work(order: Order) -> None:
    """Train in this process, step by step."""
    companion = OnDemand(order)
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(sys.stderr):
        run_training(document(order), Path(scratch) / "run", companions={"on-demand": companion})


def document(order: Order) -> Document:
    """A run that does not end by itself, with these plugins alone."""
    if order.model == "tiny":
        tables: dict[str, Any] = {name: dict(options) for name, options in TINY.items()}
    else:
        preset = read_preset(order.model, OVERRIDES)
        tables = {name: dict(options) for name, options in preset.tables.items() if name != "plugins"}
    tables["data"]["micro_batch"] = tables["data"]["effective_batch"]
    tables["run"] |= {"max_steps": 10**6, "checkpoint_every_steps": 10**6, "log_every_steps": LOG_EVERY}
    return Document("benchmark", "benchmark", {**tables, "plugins": {name: {} for name in order.plugins}})


if __name__ == "__main__":
    sys.exit(main())
