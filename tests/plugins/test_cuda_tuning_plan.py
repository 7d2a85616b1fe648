"""cuda-tuning: what is decided on recorded facts of GPUs, versions of torch, options and environments."""

from __future__ import annotations

import attrs
import pytest

from bigrun.devices import TorchBuild
from bigrun.testing.devices import DEVICES, device
from bigrun_cuda.blocks import compile_refusal
from bigrun_cuda.config import CudaConfig
from bigrun_cuda.float8 import float8_refusal, torchao_problem
from bigrun_cuda.kernels import KERNELS, expected_kernel, kernel_order, known_kernels
from bigrun_cuda.plan import (
    ALLOCATOR,
    EXPANDABLE,
    plan_allocator,
    plan_attention,
    plan_benchmark,
    plan_precision,
    plan_sums,
)

NVIDIA = [name for name, facts in DEVICES.items() if facts.backend == "cuda"]
VERSIONS = ["2.9.1", "2.10.0", "2.11.0", "2.13.0", "2.15.0"]
OLD = attrs.evolve(device("rtx3090"), arch="sm_75")
NONE = CudaConfig()
WINS = "NVIDIA_TF32_OVERRIDE={} in the environment wins"


# -- the allocator ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", DEVICES)
def test_segments_grow_under_cuda_alone_by_the_name_that_every_torch_reads(name: str, version: str) -> None:
    planned = plan_allocator(device(name, version).torch, {}, NONE)
    if DEVICES[name].backend != "cuda":
        assert planned is None
        return
    assert planned is not None
    assert (planned.name, planned.value, planned.is_custom) == (ALLOCATOR, EXPANDABLE, False)


@pytest.mark.parametrize("name", [ALLOCATOR, "PYTORCH_ALLOC_CONF"])
@pytest.mark.parametrize("wish", [None, True, False])
def test_the_users_environment_is_left_as_it_is(name: str, wish: bool | None) -> None:
    planned = plan_allocator(
        device("rtx4090").torch, {name: "max_split_size_mb:64"}, CudaConfig(expandable_segments=wish)
    )
    assert planned is not None
    assert (planned.name, planned.value, planned.is_custom) == (name, None, True)
    assert "max_split_size_mb:64 in the environment" in planned.reason
    assert ("wins over plugins.cuda-tuning.expandable_segments" in planned.reason) is (wish is not None)


def test_the_users_option_is_done() -> None:
    on, off = (
        plan_allocator(TorchBuild("2.13", cuda="13.0"), {}, CudaConfig(expandable_segments=w)) for w in (True, False)
    )
    assert on is not None
    assert off is not None
    assert (on.value, on.is_custom, off.value, off.is_custom) == (EXPANDABLE, True, None, True)


# -- precision --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NVIDIA)
def test_tf32_is_on_where_the_gpu_has_it(name: str) -> None:
    planned = plan_precision(device(name), NONE, {}, "highest", "bf16")
    assert (planned.value, planned.is_custom, planned.obstacle) == ("high", False, None)


def test_tf32_stays_off_where_it_is_not_there_or_not_wanted() -> None:
    assert plan_precision(OLD, NONE, {}, "highest", "bf16").reason == "sm_75 has no TF32"
    fp32 = plan_precision(device("a100"), NONE, {}, "highest", "fp32")
    assert (fp32.value, fp32.is_custom) == (None, False)
    assert "tf32 = true is faster" in fp32.reason


@pytest.mark.parametrize(
    ("environment", "now"),
    [({"NVIDIA_TF32_OVERRIDE": "0"}, "highest"), ({"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1"}, "high"), ({}, "high")],
)
def test_what_was_set_before_is_the_users(environment: dict[str, str], now: str) -> None:
    planned = plan_precision(device("h200"), NONE, environment, now, "bf16")
    assert (planned.value, planned.is_custom) == (None, True)


@pytest.mark.parametrize(
    ("facts", "tf32", "environment", "value", "obstacle"),
    [
        (device("h200"), True, {}, "high", None),
        (device("h200"), False, {}, "highest", None),
        (OLD, True, {}, "high", "sm_75 has no TF32"),
        (OLD, False, {}, "highest", None),
        (device("h200"), True, {"NVIDIA_TF32_OVERRIDE": "0"}, "high", WINS.format(0)),
        (device("h200"), False, {"NVIDIA_TF32_OVERRIDE": "0"}, "highest", None),
        (device("h200"), False, {"NVIDIA_TF32_OVERRIDE": "1"}, "highest", WINS.format(1)),
        (device("h200"), True, {"NVIDIA_TF32_OVERRIDE": "1"}, "high", None),
    ],
)  # fmt: skip
def test_the_users_tf32_is_done_and_what_stands_against_it_is_said(
    facts: object, tf32: bool, environment: dict[str, str], value: str, obstacle: str | None
) -> None:
    planned = plan_precision(facts, CudaConfig(tf32=tf32), environment, "highest", "bf16")  # type: ignore[arg-type]
    assert (planned.value, planned.is_custom, planned.obstacle) == (value, True, obstacle)


def test_torchs_own_sums_and_no_benchmark() -> None:
    assert (plan_sums(NONE, "fast").value, plan_sums(NONE, "fast").is_custom) == (None, False)
    assert plan_sums(NONE, "precise").is_custom
    assert plan_sums(CudaConfig(bf16_sums="precise"), "fast").value == "precise"
    assert (plan_benchmark(NONE, "off").value, plan_benchmark(NONE, "off").is_custom) == (None, False)
    assert plan_benchmark(NONE, "on").is_custom
    assert plan_benchmark(CudaConfig(cudnn_benchmark=False), "on").value == "off"


# -- attention --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "cudnn", "kernel"),
    [
        ("rtx3090", 91900, "flash"),
        ("rtx4090", 91900, "flash"),
        ("rtx5090", 91900, "flash"),
        ("a100", 91900, "flash"),
        ("h100", 91900, "cudnn"),
        ("h200", 91900, "cudnn"),
        ("h200", 91002, "flash"),  # wheels for CUDA 12.8
        ("h200", 91500, "flash"),
        ("h200", 91501, "cudnn"),
        ("h200", None, "flash"),
    ],
)
def test_the_kernel_that_torch_takes_for_heads_of_64(name: str, cudnn: int | None, kernel: str) -> None:
    planned, expected = plan_attention(device(name), NONE, {}, cudnn, 64, "bf16")
    assert (planned.value, planned.is_custom, expected) == (None, False, kernel)


def test_cudnn_can_be_made_the_last() -> None:
    _, expected = plan_attention(device("h200"), NONE, {"TORCH_CUDNN_SDPA_DEPRIORITIZED": "1"}, 91900, 64, "bf16")
    assert expected == "flash"


@pytest.mark.parametrize(
    ("capability", "head_size", "precision", "expected"),
    [
        ((8, 9), 192, "bf16", "flash"),
        ((8, 9), 208, "bf16", "efficient"),  # no room for flash attention's backward pass
        ((8, 0), 208, "bf16", "flash"),
        ((12, 0), 224, "bf16", "efficient"),
        ((8, 9), 256, "bf16", "flash"),
        ((8, 9), 320, "bf16", "efficient"),
        ((8, 9), 64, "fp32", "efficient"),
        ((7, 5), 64, "fp32", "efficient"),
        ((7, 5), 64, "bf16", "math"),
        ((13, 0), 64, "bf16", "math"),
    ],
)
def test_what_a_kernel_cannot_do_the_next_does(
    capability: tuple[int, int], head_size: int, precision: str, expected: str
) -> None:
    order = kernel_order(capability, None, {})
    assert expected_kernel(order, capability, None, head_size, precision) == expected


def test_cudnn_has_limits_of_its_own() -> None:
    for head_size, version, able in ((128, 91900, True), (136, 91900, False), (136, 92200, True), (68, 92200, False)):
        assert (expected_kernel(["cudnn"], (9, 0), version, head_size, "bf16") is not None) is able
    assert expected_kernel(["cudnn"], (8, 9), 92200, 136, "bf16") is None


def test_the_users_order_is_taken() -> None:
    config = CudaConfig(attention=("efficient", "flash"))
    planned, expected = plan_attention(device("h200"), config, {}, 91900, 64, "bf16")
    assert (planned.value, planned.is_custom, expected) == ("efficient, flash", True, "efficient")
    assert planned.reason == "plugins.cuda-tuning.attention = ['efficient', 'flash']"


def test_only_known_kernels_each_once() -> None:
    assert known_kernels(KERNELS) is None
    for wrong in ((), ("flash", "flash"), ("flash", "triton")):
        assert "expected some of cudnn, flash, efficient, math" in (known_kernels(wrong) or "")


# -- compilation and fp8 ----------------------------------------------------------------------------------------------


def test_what_compilation_needs() -> None:
    assert compile_refusal(has_triton=True, has_compiler=True) is None
    assert "pip install triton" in (compile_refusal(has_triton=False, has_compiler=False) or "")
    assert "C compiler" in (compile_refusal(has_triton=True, has_compiler=False) or "")


def config_of(**model: int) -> object:
    from bigrun.rules import EngineConfig

    config = EngineConfig()
    return attrs.evolve(config, model=attrs.evolve(config.model, **model))


@pytest.mark.parametrize("name", NVIDIA)
def test_fp8_from_ada_on(name: str) -> None:
    refusal = float8_refusal(device(name), config_of(), None)  # type: ignore[arg-type]
    if name in ("rtx3090", "a100"):
        assert "multiplies no matrices in fp8" in (refusal or "")
    else:
        assert refusal is None


def test_what_fp8_needs_is_said_with_the_remedy() -> None:
    facts, fitting = device("rtx4090"), config_of()
    for config, torchao, text in (
        (config_of(width=1032), None, "model.width = 1032 is no multiple of 16"),
        (config_of(ffn_hidden=1000), None, "model.ffn_hidden = 1000 is no multiple of 16"),
        (fitting, "torchao is not installed: pip install 'bigrun[fp8]'", "pip install 'bigrun[fp8]'"),
    ):
        refusal = float8_refusal(facts, config, torchao) or ""  # type: ignore[arg-type]
        assert refusal.startswith("plugins.cuda-tuning.fp8 = true, but ")
        assert text in refusal
        assert refusal.endswith("set plugins.cuda-tuning.fp8 = false")
    fp32 = attrs.evolve(fitting, hardware=attrs.evolve(fitting.hardware, precision="fp32"))  # type: ignore[attr-defined]
    assert "hardware.precision is 'fp32'" in (float8_refusal(facts, fp32, None) or "")


def test_a_torchao_that_is_missing_or_broken_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(error: Exception) -> object:
        def load(_: str) -> None:
            raise error

        return load

    monkeypatch.setattr("bigrun_cuda.float8.import_quietly", raising(ModuleNotFoundError("no torchao", name="torchao")))
    assert torchao_problem() == "torchao is not installed: pip install 'bigrun[fp8]'"
    monkeypatch.setattr("bigrun_cuda.float8.import_quietly", raising(ModuleNotFoundError("no x", name="x")))
    assert torchao_problem() == "torchao cannot be imported: ModuleNotFoundError: no x"
    monkeypatch.setattr("bigrun_cuda.float8.import_quietly", raising(OSError("undefined symbol")))
    assert torchao_problem() == "torchao cannot be imported: OSError: undefined symbol"
