"""cuda-tuning in a real run: rows of its settings in the run's records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from gpu_checks.check import Figures, Skip

if TYPE_CHECKING:
    from gpu_checks.subject import Subject

__all__ = ["measure", "problems"]

EXPECTED = (
    "PYTORCH_CUDA_ALLOC_CONF",
    "float32 matmul precision",
    "sums of bf16 products",
    "cuDNN benchmark",
    "kernels of attention",
    "AdamW",
)
INHERITED = (
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_ALLOC_CONF",
    "NVIDIA_TF32_OVERRIDE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
)
"""What the user has set there would win."""


def measure(subject: Subject) -> Figures:
    from gpu_checks.command import real_run
    from gpu_checks.recipe import document

    if subject.facts.backend == "rocm":
        raise Skip("cuda-tuning is for NVIDIA GPUs")
    plugins: dict[str, Any] = {"cuda-tuning": {}, "metrics-log": {}}
    run = real_run(subject, "run", document(subject, "vit_small", 32, ["run.max_steps=3"], plugins), without=INHERITED)
    nothing: dict[str, Any] = {"settings": [], "hardware": {"facts": {}}}
    start = run.starts[-1] if run.starts else nothing
    facts = start["hardware"]["facts"]
    return {
        "exit_code": run.exit_code,
        "said": run.said if run.exit_code else "",
        "settings": start["settings"],
        "changes_nothing": [event["message"] for event in run.events("cuda-tuning")],
        "backend": facts.get("backend"),
        "arch": facts.get("arch"),
        "memory_bytes": facts.get("total_bytes"),
        "expected_arch": subject.facts.arch,
        "torch_memory_bytes": torch_memory(subject),
    }


def torch_memory(subject: Subject) -> int | None:
    import torch

    return torch.cuda.mem_get_info()[1] if subject.is_gpu else None


def problems(figures: Mapping[str, Any]) -> Iterator[str]:
    if figures["exit_code"] != 0:
        yield f"the run ended with exit code {figures['exit_code']}: {figures['said']}"
        return
    if figures["arch"] != figures["expected_arch"]:
        yield f"the run says {figures['arch']}, torch {figures['expected_arch']}"
    if figures["backend"] == "cpu":
        if figures["settings"] or not figures["changes_nothing"]:
            yield "on a CPU cuda-tuning changes nothing and says so"
        return
    if figures["memory_bytes"] != figures["torch_memory_bytes"]:
        yield f"the run says {figures['memory_bytes']} bytes of memory, torch {figures['torch_memory_bytes']}"
    rows = {row["name"]: row for row in figures["settings"]}
    for name in EXPECTED:
        if name not in rows:
            yield f"no row {name}"
        elif rows[name]["took_effect"] is not True:
            yield f"{name}: {rows[name]['took_effect']}, {rows[name]['evidence']}"
    allocator = rows.get("PYTORCH_CUDA_ALLOC_CONF")
    if allocator is not None and "expandable_segments = True" not in allocator["evidence"]:
        yield f"the allocator's segments do not grow: {allocator['evidence']}"
