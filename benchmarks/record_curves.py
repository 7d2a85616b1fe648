"""Records the curves of a normal training: what an alarm must not mistake for trouble.

Writes one .npz: of every step the loss and the gradient norms, of every logging step all metrics, and the resolved
preset. tests/plugins/test_anomaly_guard_curves.py lets the detectors of anomaly-guard see them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from reporting import header, positive, table

from bigrun import hookimpl
from bigrun.config import read_preset
from bigrun.session import run_training
from bigrun.throughput import TIMINGS

if TYPE_CHECKING:
    from bigrun.run import Run

RECIPE = Path(__file__).parent / "recipes" / "curves.toml"
OUTPUT = Path(__file__).parents[1] / "tests" / "plugins" / "curves" / "photos.npz"


class Curves:
    """A companion of the run that keeps its numbers."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.rows: list[dict[str, float]] = []
        self.config = ""

    @hookimpl
    def on_start(self, run: Run) -> None:
        self.config = run.config.to_toml()

    @hookimpl(tryfirst=True)
    def before_update(self, run: Run, step: int) -> None:
        names = ["loss", "grad_norm", *(f"grad_norm/{name}" for name in run.objective.trained_modules())]
        self.steps.append({"step": step, **run.metrics.pending(names)})

    @hookimpl(tryfirst=True)
    def on_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        self.rows.append({"step": step, **{name: value for name, value in metrics.items() if name not in TIMINGS}})
        if step % 500 == 0:
            print(f"step {step}  loss {metrics['loss']:.4f}", file=sys.stderr)

    def save(self, path: Path) -> None:
        arrays = {"config": np.array(self.config)}
        for kind, found in (("steps", self.steps), ("rows", self.rows)):
            names = list(dict.fromkeys(name for row in found for name in row))
            values = [[row.get(name, np.nan) for name in names] for row in found]
            arrays |= {f"{kind}_names": np.array(names), kind: np.array(values, dtype=np.float32)}
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, **arrays)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=positive, help="length of the run instead of the recipe's")
    parser.add_argument("--recipe", default=str(RECIPE), help="a preset")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="an option of the preset")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="the file to write")
    arguments = parser.parse_args()
    print(header("Curves of a normal training"))
    sets = [*arguments.set, *([f"run.max_steps={arguments.steps}"] if arguments.steps else [])]
    curves = Curves()
    with tempfile.TemporaryDirectory() as folder:
        run_training(read_preset(arguments.recipe, sets), Path(folder) / "run", companions={"curves": curves})
    curves.save(arguments.output)
    names = [name for name in curves.rows[-1] if name != "step"]
    tenth = max(len(curves.rows) // 10, 1)
    parts = [
        [row[name] for row in part if name in row] for name in names for part in (curves.rows[:tenth], curves.rows)
    ]
    spans = [[f"{min(part):.4g}", f"{max(part):.4g}"] if part else ["", ""] for part in parts]
    rows = [[name, *spans[2 * i], *spans[2 * i + 1]] for i, name in enumerate(names)]
    print(table(["metric", "first tenth: min", "max", "all: min", "max"], rows))
    print(f"\n{len(curves.steps):,} steps, {arguments.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
