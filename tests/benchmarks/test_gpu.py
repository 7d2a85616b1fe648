"""`gpu.py` counts operations as torch does, runs on the CPU in small, and says so where there is no GPU."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import pytest
import torch
from learning_setups import section
from test_benchmarks import run
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from worker import Worker, WorkerError

from bigrun.config import read_preset
from bigrun.model.vit import VisionTransformer
from bigrun.planner.flops import forward_flops, step_flops
from bigrun.planner.gpus import peak_flops
from bigrun.sections import Model, Views


def preset(name: str) -> tuple[Model, Views]:
    tables = read_preset(name).tables
    return section(tables, "model", Model), section(tables, "views", Views)


@pytest.mark.parametrize(("ffn", "hidden"), [("mlp", 192), ("swiglu", 128)])
def test_a_forward_pass_has_as_many_operations_as_torch_counts(ffn: Any, hidden: int) -> None:
    model = Model(width=48, depth=3, heads=3, ffn=ffn, ffn_hidden=hidden, patch_size_px=8)
    backbone = VisionTransformer(model).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        backbone(torch.zeros(5, 3, 32, 32))
    assert counter.get_total_flops() == 5 * forward_flops(model, 32)


def test_a_step_of_vit_large_has_1_6_tflop_per_image() -> None:
    """Two global crops of 224 px and eight local ones of 96 px, teacher included.

    The usual estimate of 6 operations per parameter and token of the student and 2 of the teacher, without attention,
    is 1.57.
    """
    model, views = preset("vit_large")
    assert (views.global_size_px, views.local_size_px, views.local_crops) == (224, 96, 8)
    assert step_flops(model, views) == pytest.approx(1.605e12, rel=1e-3)
    with torch.device("meta"):
        parameters = sum(p.numel() for p in VisionTransformer(model).parameters())
    student, teacher = 2 * 201 + 8 * 41, 2 * 201
    assert parameters * (6 * student + 2 * teacher) == pytest.approx(1.57e12, rel=2e-3)


def test_a_step_without_teacher_or_local_crops_has_less() -> None:
    model = Model()
    views = Views(local_crops=0)
    near = forward_flops(model, 224)
    assert step_flops(model, views, teacher=False) == 6 * near
    assert step_flops(model, views) == 8 * near
    assert step_flops(model, Views(), teacher=False) == 6 * near + 24 * forward_flops(model, 96)


def test_the_peak_is_known_for_listed_devices_and_never_guessed() -> None:
    assert peak_flops("NVIDIA H200") == 989e12
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("NVIDIA GeForce RTX 4090") == 165.2e12
    assert peak_flops("NVIDIA L4") is None
    assert peak_flops("cpu") is None


@pytest.mark.slow
def test_rows_are_measured_on_the_cpu_in_small() -> None:
    words = ["--device", "cpu", "--tiny", "--no-compile", "--steps", "2", "--only", "two-view", "ViT-S full recipe,"]
    facts, checkpointing, two_views = map(json.loads, run("gpu.py", *words))
    assert facts["device"] == "cpu"
    assert (checkpointing["name"], checkpointing["checkpointing"]) == ("ViT-S full recipe, checkpointing", "full")
    assert (two_views["name"], two_views["two_views"]) == ("ViT-L two-view without teacher", True)
    assert checkpointing["parameters"] == two_views["parameters"] > 20_000
    assert checkpointing["tflop_per_image"] > two_views["tflop_per_image"] > 0
    for row in (checkpointing, two_views):
        assert row["images_per_second"] == pytest.approx(4 / row["seconds_per_step"], rel=0.01)
        assert row["mfu"] is row["peak_gpu_gib"] is None


@pytest.mark.slow
def test_rows_that_would_begin_too_late_are_skipped() -> None:
    _, skipped = map(
        json.loads, run("gpu.py", "--device", "cpu", "--tiny", "--only", "Giant", "--no-compile", "--seconds", "-1")
    )
    assert skipped == {"name": "ViT-Giant full recipe", "skip": "-1 seconds are over"}


def test_a_row_that_takes_longer_than_there_is_time_is_killed() -> None:
    began = time.monotonic()
    with pytest.raises(WorkerError, match="exit code -9"):
        Worker("slow", [sys.executable, "-c", "import time; time.sleep(600)"], {}, limit_seconds=0.3)
    assert time.monotonic() - began < 60


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_measured() -> None:
    facts, skipped = map(json.loads, run("gpu.py"))
    assert facts["device"] is None
    assert "no GPU" in skipped["skip"]
