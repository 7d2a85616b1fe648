"""Run directories and bands for tests: as small as such can be."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from bigrun.record.record import RunRecord

SEEDS = Path(__file__).parent / "seeds"


def run_directory(
    folder: Path, rows: Sequence[Mapping[str, Any]], seed: int = 0, **tables: Mapping[str, Any]
) -> RunRecord:
    """A run directory with these rows of metrics."""
    folder.mkdir(parents=True)
    config: dict[str, Any] = {"run": {"seed": seed, "log_every_steps": 5, "max_steps": 160}}
    config |= {"model": {"width": 96}, "data": {"effective_batch": 64, "path": f"/secret/{seed}"}}
    config |= {name: {**config.get(name, {}), **table} for name, table in tables.items()}
    (folder / "config.toml").write_text(tomli_w.dumps(config), encoding="utf-8")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return RunRecord(folder)


def recorded_rows(preset: str = "quickstart") -> Iterator[list[dict[str, Any]]]:
    """The rows of five measured runs of a preset, one seed each."""
    with np.load(SEEDS / f"{preset}_seeds.npz", allow_pickle=False) as file:
        names, steps, values = file["names"].tolist(), file["steps"].tolist(), file["values"]
    for of_seed in values:
        yield [
            {"step": step} | {n: float(v) for n, v in zip(names, of_seed[:, i], strict=True) if not np.isnan(v)}
            for i, step in enumerate(steps)
        ]


def recorded(folder: Path, preset: str = "quickstart") -> list[RunRecord]:
    """The same as run directories."""
    return [run_directory(folder / f"seed-{k}", rows, k) for k, rows in enumerate(recorded_rows(preset))]
