"""How long the training step waits for images, with 1, 2 and 4 workers, from files and from a packed form.

python benchmarks/data_wait.py                     with made-up CT slices, four minutes
python benchmarks/data_wait.py --ct FOLDER         with those of a folder that has an index.csv
python benchmarks/data_wait.py --steps 4 --series 2 --workers 1     twenty seconds

Every row is a training of its own (a tiny ViT, CT slices, 32 a step), one after the other; a quarter of its steps
warms up. On a CPU workers and training share the cores; with a GPU they do not.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from data_sets import link_series, made_up_ct, packed
from reporting import header, positive, table

EVERY = 4
SETTINGS = (
    "model.architecture='vit_test'",
    "model.patch_size_px=16",
    "views.global_size_px=96",
    "views.local_size_px=48",
    "views.local_crops=2",
    "views.colour_probability=0",
    "views.grayscale_probability=0",
    "views.solarise_probability=0",
    "objective.head_hidden=64",
    "objective.head_bottleneck=32",
    "objective.prototypes=256",
    "objective.ibot_prototypes=256",
    "data.effective_batch=32",
    "data.micro_batch=16",
    f"run.log_every_steps={EVERY}",
    "run.checkpoint_every_steps=100000",
    "hardware.device='cpu'",
    "hardware.precision='fp32'",  # bf16 without AMX takes a hundred times as long
    "hardware.threads=1",  # the other core decodes
)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ct", type=Path, help="folder with an index.csv of 16-bit slices  [made-up ones]")
    parser.add_argument("--series", type=positive, default=64, help="series; those of --ct are repeated  [64]")
    parser.add_argument("--steps", type=positive, default=48, help="steps of a training  [48]")
    parser.add_argument("--workers", type=positive, nargs="+", default=[1, 2, 4], help="[1 2 4]")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    print(header("Data: how long a step waits"), flush=True)
    rows = []
    with tempfile.TemporaryDirectory(prefix="bigrun-wait-") as name:
        folder = Path(name)
        slices = link_series(options.ct or made_up_ct(folder / "made-up"), folder / "ct", options.series)
        print(f"work      {options.steps} steps of 32 samples, {options.series} series, {slices:,} slices", flush=True)
        sources = {"PNG": folder / "ct", "packed": packed(folder / "ct", folder / "packed", "--plugin", "ct-slices")}
        for workers in options.workers:
            for kind, source in sources.items():
                wait, rate = train(source, folder / f"{kind}-{workers}", workers, options.steps)
                rows.append([f"{kind}, workers {workers}", f"{wait:.1%}", f"{rate:.1f}"])
                print(f"done      {', '.join(rows[-1])}", flush=True)
    print("\n" + table(("images from", "wait, of step time", "samples / s"), rows))
    return 0


def train(source: Path, directory: Path, workers: int, steps: int) -> tuple[float, float]:
    """Medians of the wait's share and of the rate, over the reports after the first quarter."""
    sets = [*SETTINGS, f"data.workers={workers}", f"run.max_steps={steps}"]
    command = [sys.executable, "-m", "bigrun", "run", "vit_tiny", "--run-dir", str(directory), "--plugin", "ct-slices"]
    command += [word for setting in [*sets, f"data.path='{source}'"] for word in ("--set", setting)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(
            f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    lines = (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    kept = [json.loads(line) for line in lines][max(steps // EVERY // 4, 1) - 1 :]
    waits, rates = ([row[name] for row in kept] for name in ("data_wait_fraction", "images_per_second"))
    return float(np.median(waits)), float(np.median(rates))


if __name__ == "__main__":
    raise SystemExit(main())
