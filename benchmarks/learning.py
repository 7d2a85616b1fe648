"""Does it learn? bigrun's recipe, its losses in part, and lightly-train's dinov2 method, on the same images.

    python benchmarks/learning.py --peer-python PEER/bin/python     the whole comparison: about 40 minutes on 2 cores
    python benchmarks/learning.py --tasks photos --seeds 0          without the peer, one data set, one seed
    python benchmarks/learning.py --quick                           a minute, for a test: the numbers mean nothing

Every run is a process of its own with one thread. Finished runs are lines in --results: the same command continues
where it was interrupted. Start with another file after a change of bigrun.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from learning_data import LearningData, prepare
from learning_setups import METHODS, TASKS, known_methods, specification
from learning_tables import Point, Results, print_task
from peer_python import installed_versions
from probes import collapse_warnings, joined, knn_score, linear_score, rankme, spread
from reporting import header, positive

HERE = Path(__file__).resolve().parent


@attrs.frozen
class Job:
    """One run."""

    task: str
    method: str
    seed: int
    spec: dict[str, Any]

    @property
    def key(self) -> str:
        """Changes with anything that the run is told."""
        text = json.dumps([self.task, self.method, self.seed, self.spec], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peer-python", type=Path, help="Python of an environment that has lightly-train")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS, help="data sets")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="  [0 1 2]")
    parser.add_argument("--jobs", type=positive, default=os.cpu_count() or 1, help="runs at a time  [all cores]")
    parser.add_argument("--results", type=Path, default=Path("learning-results.jsonl"), help="finished runs")
    parser.add_argument("--fashion-folder", type=Path, help="Fashion-MNIST, if it is not to be fetched")
    parser.add_argument("--quick", action="store_true", help="4 steps on a few images: for a test")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    print(header("Learning: the same small ViT on the same images"))
    peer = installed_versions(options.peer_python, "lightly-train", "torch")
    print(f"peer      {peer or 'lightly-train: not installed (--peer-python)'}", flush=True)
    data = {name: prepare(name, quick=options.quick, fashion_folder=options.fashion_folder) for name in options.tasks}
    methods = known_methods(options.methods, peer is not None)
    jobs = list(planned(options, data, methods))
    results = Results.read(options.results, {job.key for job in jobs})
    train_all([job for job in jobs if job.key not in results.keys], data, options, results)
    for name in options.tasks:
        print_task(name, data[name], results, methods, options.seeds)
    return 0


def planned(options: argparse.Namespace, data: dict[str, LearningData], methods: Sequence[str]) -> Iterator[Job]:
    """Seed by seed, so that an interrupted comparison is one of fewer seeds."""
    for seed in options.seeds:
        for task, files in data.items():
            for name in methods:
                yield Job(task, name, seed, specification(task, name, seed, files.folder, options.quick))


def train_all(
    jobs: Sequence[Job], data: dict[str, LearningData], options: argparse.Namespace, results: Results
) -> None:
    """Run them, several at a time, and score each when it ends."""
    lock = threading.Lock()

    def one(job: Job) -> None:
        out = options.results.with_suffix("") / job.key
        points = score(train(job, out, data[job.task], options.peer_python), out, data[job.task])
        with lock:
            results.add(job.key, job.task, job.method, job.seed, points)
            last = points[-1]
            print(
                f"{job.task}, {job.method}, seed {job.seed}: {last.images} images in {last.cpu_seconds:.0f} CPU s, "
                f"k-NN {last.knn:.3f}, linear {last.linear:.3f}",
                flush=True,
            )

    with ThreadPoolExecutor(options.jobs) as pool:
        try:
            for done in [pool.submit(one, job) for job in jobs]:
                done.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def train(job: Job, out: Path, files: LearningData, peer_python: Path | None) -> list[dict[str, Any]]:
    """One process; returns the lines of its log of features."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "features.jsonl").unlink(missing_ok=True)
    spec = {**job.spec, "task": job.task, "out": str(out.absolute()), "probe": str(files.probe)}
    (out / "spec.json").write_text(json.dumps(spec, indent=1), encoding="utf-8")
    ours = METHODS[job.method].library == "bigrun"
    words = [sys.executable, "learning_bigrun.py"] if ours else [str(peer_python), "peers/lightly_dinov2.py", "learn"]
    words = [words[0], str(HERE / words[1]), *words[2:], str((out / "spec.json").absolute())]
    with (out / "log.txt").open("w", encoding="utf-8") as log:
        done = subprocess.run(
            words, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
        )
    if done.returncode:
        raise SystemExit(f"{job.task}, {job.method}, seed {job.seed} failed; see {out / 'log.txt'}")
    return [json.loads(line) for line in (out / "features.jsonl").read_text(encoding="utf-8").splitlines()]


def score(lines: Sequence[dict[str, Any]], out: Path, files: LearningData) -> list[Point]:
    """Accuracies and indicators of each line's features; the arrays are deleted."""
    points = []
    for line in lines:
        path = out / f"features-{line.pop('step')}.npz"
        with np.load(path) as arrays:
            cls, patches = arrays["cls"], arrays["patches"]
        path.unlink()
        features, effective = joined(cls, patches), rankme(cls)
        indicators = {
            "s_cls": spread(cls),
            "rankme": effective,
            "rankme_fraction": effective / min(cls.shape),
            **{name: line.pop(name) for name in ("s_patch", "cls_patch_cosine", "prototypes_used")},
        }
        knn, linear = knn_score(features, files.labels), linear_score(features, files.labels)
        warned = tuple(collapse_warnings(indicators)) if line["images"] else ()
        points.append(Point(**line, knn=knn, linear=linear, indicators=indicators, warnings=warned))
    return points


if __name__ == "__main__":
    sys.exit(main())
