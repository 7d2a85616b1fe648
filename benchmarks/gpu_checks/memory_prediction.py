"""What `bigrun plan` says of a run's memory, without a GPU, beside what its steps take."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import tomli_w

from gpu_checks.check import Figures, Skip

if TYPE_CHECKING:
    from bigrun.config import Document
    from gpu_checks.subject import Subject

__all__ = ["measure", "problems"]

TOLERANCES = {"cuda": 0.10, "rocm": 0.10, "cpu": 0.03}
ALLOCATOR = "PYTORCH_CUDA_ALLOC_CONF"
"""As the setting of `cuda-tuning` is called."""
NO_GPU = {"CUDA_VISIBLE_DEVICES": "-1", "HIP_VISIBLE_DEVICES": "-1", "OMP_NUM_THREADS": "1"}


@attrs.frozen
class Case:
    """One run."""

    preset: str
    batch: int
    checkpointing: str
    grows: bool = False
    """Whether segments of torch's allocator do, for which `cuda-tuning` asks."""

    def document(self, subject: Subject) -> Document:
        from gpu_checks.recipe import document

        sets = [f"hardware.activation_checkpointing='{self.checkpointing}'"]
        if subject.tiny:  # as large as is needed for 3 % to mean something
            sets += ["model.width=128", "model.ffn_hidden=512", "model.depth=3"]
        plugins: dict[str, Any] = {"cuda-tuning": {"expandable_segments": True}} if self.grows else {}
        return document(subject, self.preset, self.batch, sets, plugins)


CASES = (Case("vit_small", 64, "none"), Case("vit_large", 32, "none"), Case("vit_large", 128, "full"))


def cases_of(backend: str) -> list[Case]:
    """On NVIDIA each with segments of a fixed size, and with those that grow."""
    ways = (False, True) if backend == "cuda" else (False,)
    return [attrs.evolve(case, grows=grows) for grows in ways for case in CASES]


def measure(subject: Subject) -> Figures:
    cases = cases_of(subject.facts.backend)
    plans = [started(subject, number, case) for number, case in enumerate(cases)]
    rows = []
    for case, plan in zip(cases, plans, strict=True):
        said, errors = plan.communicate()
        if plan.returncode != 0:
            raise RuntimeError(f"`bigrun plan` ended with exit code {plan.returncode}: {errors[-400:]}")
        rows.append(row_of(subject, case, json.loads(said)))
    if not any("measured_mib" in row for row in rows):
        raise Skip(f"none of the runs fits into {subject.facts.free_bytes / 2**30:.1f} GiB: {rows}")
    return {"backend": subject.facts.backend, "tolerance": TOLERANCES[subject.facts.backend], "runs": rows}


def started(subject: Subject, number: int, case: Case) -> subprocess.Popen[str]:
    """`bigrun plan` of a preset file, without a GPU."""
    path = Path(subject.directory) / f"plan-{number}.toml"
    path.write_text(tomli_w.dumps(dict(case.document(subject).tables)), encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, "-m", "bigrun", "plan", str(path), "--images", "1000", "--json"],
        env={**os.environ, **NO_GPU},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def row_of(subject: Subject, case: Case, plan: Mapping[str, Any]) -> dict[str, Any]:
    """What was predicted beside what was taken, in tensors and of the device."""
    from gpu_checks.steps import Steps, train

    predicted, need = plan["memory"]["peak_bytes"], plan["need_bytes"]
    row: dict[str, Any] = {**attrs.asdict(case), "predicted_mib": predicted / 2**20, "need_mib": need / 2**20}
    if plan["segments_grow"] is not case.grows:
        raise RuntimeError(f"`bigrun plan` says segments_grow = {plan['segments_grow']} of {case}")
    if need > subject.facts.free_bytes:
        return {**row, "why": "it does not fit here"}
    found = train(case.document(subject), Steps(2, profile=True))
    assert found.peak_bytes is not None
    row |= {"measured_mib": found.peak_bytes / 2**20, "error": predicted / found.peak_bytes - 1}
    if found.reserved_bytes is not None:
        row |= {"device_mib": (found.reserved_bytes + outside_bytes()) / 2**20}
    if case.grows:
        settings = found.setting(ALLOCATOR)
        row |= {"grew": bool(settings and settings["took_effect"])}
    return row


def outside_bytes() -> int:
    """What is taken of the device beside torch's allocator: context and libraries, if nobody else uses it."""
    import torch

    free, total = torch.cuda.mem_get_info()
    return max(total - free - torch.cuda.memory_reserved(), 0)


def problems(figures: Mapping[str, Any]) -> Iterator[str]:
    for row in figures["runs"]:
        name = f"{row['preset']}, batch {row['batch']}, checkpointing {row['checkpointing']}"
        name += ", segments that grow" if row.get("grows") else ""
        if "error" not in row:
            continue
        if not row.get("grew", True):
            yield f"{name}: the allocator does not say that they do"
        if not abs(row["error"]) <= figures["tolerance"]:
            taken = f"{row['measured_mib']:.0f} were taken ({row['error']:+.1%})"
            yield f"{name}: {row['predicted_mib']:.0f} MiB were predicted, {taken}"
        if row.get("device_mib", 0) > row["need_mib"]:
            taken = f"{row['device_mib']:.0f} were taken"
            yield f"{name}: the need of the device was to be {row['need_mib']:.0f} MiB, {taken}"
