"""Every check of `gpu.py` passes on figures of a GPU that is as the documentation says, and fails where one thing is
not; whatever happens to the process of a check is a row; and all of them run on a CPU."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from gpu_checks import attention_kernels, bf16_sums, examine
from gpu_checks.catalogue import CHECKS
from gpu_checks.check import Check, Skip
from gpu_checks.child import answer
from gpu_checks.subject import Subject
from gpu_figures import HEALTHY, changed
from test_benchmarks import BENCHMARKS

DOCS = BENCHMARKS.parent / "docs"
NAMES = [check.name for check in CHECKS]
WORSE: Sequence[tuple[str, str, Any, str]] = [
    # check, what of its healthy figures is another one, its value, what is said of it
    ("settings", "exit_code", 1, "exit code 1"),
    ("settings", "arch", "sm_80", "sm_80"),
    ("settings", "memory_bytes", 1, "of memory"),
    ("settings", "settings.0.took_effect", None, "PYTORCH_CUDA_ALLOC_CONF"),
    ("settings", "settings.0.evidence", "says expandable_segments = False", "do not grow"),
    ("settings", "settings.1.took_effect", False, "float32 matmul precision"),
    ("settings", "settings", [], "no row kernels of attention"),
    ("settings", "backend", "cpu", "changes nothing"),
    ("tf32", "with_tf32.product_error", 1e-6, "not TF32"),
    ("tf32", "with_tf32.product_error", 1e-2, "not TF32"),
    ("tf32", "before.product_error", 8e-4, "before"),
    ("tf32", "given_back", 8e-4, "given back"),
    ("tf32", "took_effect", False, "no effect"),
    ("tf32", "with_tf32.gram_error", 0.3, "gram"),
    ("tf32", "with_tf32.small_gram_error", 0.03, "small_gram"),
    ("tf32", "with_tf32.koleo_error", float("nan"), "koleo"),
    ("bf16_sums", "precise.error", 2.5e-3, "precise"),
    ("bf16_sums", "fast.error", 0.1, "fast"),
    ("bf16_sums", "after", "precise", "given back"),
    ("bf16_sums", "before", "precise", "default"),
    ("attention_kernels", "reported", "math", "cudnn was expected"),
    ("attention_kernels", "reported", "none", "computed by none"),
    ("attention_kernels", "tokens.0.operator", "flash", "operator of flash"),
    ("attention_kernels", "tokens.0.kernel", "math", "kernel math ran"),
    ("attention_kernels", "alone.0.reported", "efficient", "torch takes efficient"),
    ("attention_kernels", "alone.1.operator", "flash", "math alone"),
    ("attention_kernels", "order_after", ["flash"], "given back"),
    ("transfers", "images_equal", False, "images arrive"),
    ("transfers", "ways.numbers.gpu_still_busy", False, "numbers: the host has waited"),
    ("transfers", "ways.images, pinned.gpu_still_busy", False, "pinned: the host has waited"),
    ("host_syncs", "waits", 12, "3.0 times a step"),
    ("host_syncs", "waits", 0, "counts nothing"),
    ("optimizer", "is_fused", False, "not fused"),
    ("optimizer", "difference", 1e-2, "difference"),
    ("optimizer", "teacher_difference", float("nan"), "teacher_difference"),
    ("optimizer", "fused.temporary_mib", 1160.0, "takes 1160 MiB"),
    ("optimizer", "fused.milliseconds", 9.0, "unfused 5.00"),
    ("memory_prediction", "runs.0.error", -0.2, "were predicted"),
    ("memory_prediction", "runs.0.error", 0.2, "were predicted"),
    ("memory_prediction", "runs.0.device_mib", 40000.0, "need of the device"),
    ("memory_prediction", "runs.1.device_mib", 40000.0, "segments that grow: the need of the device"),
    ("memory_prediction", "runs.1.grew", False, "does not say"),
    ("training", "ways.cuda-tuning.losses", [9.8, 9.7, 9.6, 7.0], "cuda-tuning: losses differ"),
    ("training", "ways.full checkpointing.gradient_norms", [2.0, 2.0, 2.0, 2.0], "full checkpointing: norms"),
    ("training", "ways.full checkpointing.peak_mib", 9500.0, "MiB"),
    ("training", "ways.eager.mfu", 1.2, "MFU 1.20"),
    ("training", "ways.eager.gradient_norms", [2.0] * 4, "too little is learnt"),
    ("one_pass", "ways.varlen-attention.error", 0.1, "off by"),
    ("one_pass", "ways.varlen-attention.failure", "its first call failed", "first call"),
    ("one_pass", "ways.varlen-attention", {"obstacle": "built without flash"}, "built without flash"),
    ("one_pass", "ways.varlen-attention.training.losses", [9.8, 9.7, 9.6, float("nan")], "losses differ"),
    ("out_of_memory", "cramped.exit_code", 1, "exit code 1"),
    ("out_of_memory", "cramped.ran_out", [], "did not run out"),
    ("out_of_memory", "cramped.ran_out.0.starts_again", False, "did not start again"),
    ("out_of_memory", "cramped.ran_out", [{"message": "", "starts_again": True}] * 2, "half was still too much"),
    ("out_of_memory", "cramped.micro_batch_at_the_end", [64, 64], "at the end"),
    ("out_of_memory", "cramped.micro_batch_at_the_end", [32, 32], "at the end"),
    ("out_of_memory", "cramped.losses", [9.8, 9.7, 9.6, 9.0], "losses differ"),
    ("out_of_memory", "cramped.losses", [9.8], "of 1 steps"),
    ("out_of_memory", "cramped.gradient_norms", [2.0, 2.0, 2.0, 2.0], "norms of gradients differ"),
    ("background_checkpoint", "checkpoints.2.stall_seconds", 1.5, "waited 1.50 s"),
    ("background_checkpoint", "checkpoints", [], "only 0 checkpoints"),
    ("background_checkpoint", "checkpoints.0.stall_seconds", 2.0, "for the disk"),
    ("savers", "ways.teacher_offload.peak_mib", 6100.0, "takes 6100 MiB"),
    ("savers", "ways.activation_offload.losses", [9.8, 9.7, 9.6, 9.512], "activation_offload: losses differ"),
    ("savers", "large.update_in_backward.losses", [9.8, 9.7, 9.6, 9.512], "update_in_backward: losses differ"),
    ("savers", "large.update_in_backward.peak_mib", 6900.0, "takes 6900 MiB"),
    ("savers", "large.update_in_backward.setting", None, "row is None"),
    ("savers", "ways.states bf16.setting", None, "row is None"),
    ("savers", "ways.states bf16.losses", [9.8, 9.7, 9.6, 9.0], "losses differ"),
    ("telemetry", "exit_code", 1, "exit code 1"),
    ("telemetry", "rows", 0, "0 rows"),
    ("telemetry", "missing", ["gpu_power_watts"], "gpu_power_watts"),
    ("telemetry", "sources_left_out", ["telemetry reads no nvml"], "no nvml"),
    ("telemetry", "no_wait.gpu_still_busy", False, "waited for the GPU"),
    ("telemetry", "ranges.gpu_temperature_celsius", [0.0, 0.0], "gpu_temperature_celsius"),
    ("telemetry", "ranges.gpu_busy_fraction", [0.0, 0.1], "busy for 10%"),
    ("telemetry", "ranges.gpu_power_watts", [300000.0, 640000.0], "power [300000.0"),
    ("telemetry", "ranges.gpu_power_watts", [0.0, 0.0], "power [0.0"),
    ("telemetry", "ranges.gpu_memory_used_bytes", [1, 2], "2 bytes of the device"),
    ("compiled", "event.graph_breaks", 3, "3 graph breaks"),
    ("compiled", "event", None, "no event"),
    ("compiled", "setting.took_effect", False, "the setting"),
    ("compiled", "stochastic_depth.failure", "limit hit", "stochastic depth: limit hit"),
    ("compiled", "stochastic_depth.graphs", 4, "stochastic depth: 4 graphs"),
    ("compiled", "compiled.gradient_norms", [2.4, 2.0, 1.2, 0.9], "norms of gradients"),
    ("doctor", "fail", [{"name": "bf16", "found": "none", "remedy": "another GPU"}], "bf16: none"),
    ("doctor", "exit_code", -11, "exit code -11"),
    ("doctor", "names", [], "no row"),
]  # fmt: skip


def problems(check: str, figures: dict[str, Any]) -> list[str]:
    return list(importlib.import_module(f"gpu_checks.{check}").problems(figures))


@pytest.mark.parametrize("check", CHECKS, ids=NAMES)
def test_each_check_has_a_page_and_passes_where_its_claim_holds(check: Check) -> None:
    assert (DOCS / check.docs).is_file()
    assert problems(check.name, HEALTHY[check.name]) == []


@pytest.mark.parametrize(("check", "path", "value", "said"), WORSE)
def test_each_check_fails_where_one_thing_is_not_as_claimed(check: str, path: str, value: Any, said: str) -> None:
    found = problems(check, changed(HEALTHY[check], path, value))
    assert any(said in problem for problem in found), found


def test_no_check_is_left_out_of_that() -> None:
    assert set(HEALTHY) == {check for check, *_ in WORSE} == set(NAMES)
    assert len(NAMES) == len(set(NAMES)) >= 12


def test_kernels_are_told_by_their_names() -> None:
    name = attention_kernels.kernel_of_names
    assert name(["cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_3"]) == "cudnn"
    assert name(["void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<64, 128, 128>>"]) == "flash"
    assert name(["fmha_cutlassF_bf16_aligned_64x64_rf_sm80(PyTorchMemEffAttention::AttentionKernel)"]) == "efficient"
    assert name(["void (anonymous namespace)::softmax_warp_forward<c10::BFloat16>", "ampere_bf16_s16816gemm"]) == "math"
    assert name(["ampere_bf16_s16816gemm_bf16_128x64"]) is None
    operator = attention_kernels.kernel_of_operators
    assert operator(["aten::_scaled_dot_product_flash_attention_for_cpu"]) == "flash"
    assert operator(["aten::_scaled_dot_product_attention_math", "aten::_softmax"]) == "math"
    assert operator(["aten::_softmax", "aten::bmm"]) == "products"


@pytest.mark.slow
def test_figures_of_a_cpu_are_measured_here(tmp_path: Path) -> None:
    """The two that need neither a run nor a process; the others are run by the slow test below."""
    subject = Subject.of("cpu", str(tmp_path), tiny=True)
    for module in (attention_kernels, bf16_sums):
        found = answer(module, subject)
        assert found["result"] == "pass", found
        json.dumps(found, allow_nan=False)
    assert [row["operator"] for row in answer(attention_kernels, subject)["figures"]["tokens"]] == [
        *["products"] * 3,
        "flash",
    ]


# -- what happens to the process of a check -----------------------------------------------------------------------

STUBS = {
    "holds": "def measure(subject):\n    print('noise')\n    return {'x': 1.23456789, 'tiny': subject.tiny}\n"
    "def problems(figures):\n    return iter(())\n",
    "contradicted": "def measure(subject):\n    return {'x': float('inf')}\n"
    "def problems(figures):\n    yield 'one'\n    yield 'two'\n",
    "not here": "from gpu_checks.check import Skip\ndef measure(subject):\n    raise Skip('no such device')\n",
    "raises": "def measure(subject):\n    raise MemoryError('CUDA out of memory')\n",
    "crashes": "import os, signal\ndef measure(subject):\n    os.kill(os.getpid(), signal.SIGSEGV)\n",
    "leaves": "import os\ndef measure(subject):\n    os.write(2, b'last words')\n    os._exit(7)\n",
    "hangs": "import subprocess, sys, time\ndef measure(subject):\n"
    "    child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "    open('{log}', 'w').write(str(child.pid))\n    time.sleep(600)\n",
    "is none": "",
}


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def stubs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Check]:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = {}
    for number, (name, source) in enumerate(STUBS.items()):
        (tmp_path / f"stub_{number}.py").write_text(source.replace("{log}", str(tmp_path / "log")))
        found[name] = Check(name, "a claim", "index.md", 3.0 if name == "hangs" else 60.0, f"stub_{number}")
    return found


@pytest.mark.slow
def test_whatever_happens_to_a_check_is_a_row_and_the_next_ones_are_made(
    stubs: dict[str, Check], tmp_path: Path
) -> None:
    deadline = time.monotonic() + 300
    rows = {row["check"]: row for row in examine.examine(list(stubs.values()), "cpu", tiny=True, deadline=deadline)}
    assert {name: row["result"] for name, row in rows.items()} == {
        "holds": "pass",
        "contradicted": "fail",
        "not here": "skip",
        **dict.fromkeys(["raises", "crashes", "leaves", "hangs", "is none"], "fail"),
    }
    assert rows["holds"]["figures"] == {"x": 1.23457, "tiny": True}
    assert (rows["contradicted"]["why"], rows["contradicted"]["figures"]) == ("one; two", {"x": "inf"})
    assert rows["not here"]["why"] == "no such device"
    assert rows["raises"]["why"] == "MemoryError: CUDA out of memory"
    assert rows["crashes"]["why"].startswith("its process was killed by SIGSEGV")
    assert rows["leaves"]["why"] == "its process ended with exit code 7: last words"
    assert rows["hangs"]["why"] == "it had not ended after 3 s"
    assert not is_alive(int((tmp_path / "log").read_text()))  # nor is what it has started
    assert "measure" in rows["is none"]["why"]


@pytest.mark.slow
def test_the_time_of_all_checks_is_kept(stubs: dict[str, Check], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examine, "LEAST_SECONDS", 1.0)
    began = time.monotonic()
    checks = [stubs["hangs"], stubs["holds"]]
    long = Check("hangs", "a claim", "index.md", 600.0, checks[0].module)
    rows = list(examine.examine([long, checks[1]], "cpu", tiny=True, deadline=began + 2))
    assert time.monotonic() - began < 20
    assert [row["result"] for row in rows] == ["skip", "skip"]
    assert [row["why"] for row in rows] == [
        "the time for all checks was over before it ended",
        "the time for all checks is over",
    ]


def test_a_check_for_a_gpu_says_on_a_cpu_that_it_is_one(tmp_path: Path) -> None:
    subject = Subject.of("cpu", str(tmp_path), tiny=True)
    with pytest.raises(Skip, match="TF32 is NVIDIA's; this is a CPU"):
        subject.require_nvidia("TF32 is NVIDIA's")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
def test_all_checks_hold_on_this_gpu() -> None:
    words = [sys.executable, str(BENCHMARKS / "gpu.py"), "--checks"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["check"], row["why"]) for row in rows if row.get("result") == "fail"] == []
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_all_checks_run_on_a_cpu(tmp_path: Path) -> None:
    """What needs a GPU says so; everything else holds, and would not with figures that are a little worse."""
    words = [sys.executable, str(BENCHMARKS / "gpu.py"), "--checks", "--device", "cpu", "--tiny", "--seconds", "1500"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=1600, check=False, cwd=tmp_path)
    facts, *rows, summary = map(json.loads, done.stdout.splitlines())
    assert done.returncode == 0, done.stdout + done.stderr
    assert facts["device"] == "cpu"
    assert [row["check"] for row in rows] == NAMES
    results = {row["check"]: row["result"] for row in rows}
    skipped = {"tf32", "host_syncs", "one_pass", "compiled"}
    assert results == {name: "skip" if name in skipped else "pass" for name in NAMES}
    assert summary == {"checks": {"pass": len(NAMES) - len(skipped), "skip": len(skipped)}}
    figures = {row["check"]: row["figures"] for row in rows}
    for run in figures["memory_prediction"]["runs"]:
        assert run["error"] == pytest.approx(run["predicted_mib"] / run["measured_mib"] - 1, abs=1e-4)
    wrong = changed(figures["memory_prediction"], "runs.0.error", 0.05)
    assert problems("memory_prediction", wrong)
