"""cuda-tuning in a run: what is set, read back and given back; on another device, nothing.

No GPU is here: flags of torch can be set and read on every build, and the facts of a GPU are recorded ones.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, ClassVar

import attrs
import pytest
import torch

from bigrun import hookimpl
from bigrun.devices import DeviceFacts, Planned, Setting, TorchBuild
from bigrun.errors import ConfigError, NoImagesError, UsageError
from bigrun.testing.contract import PluginContract
from bigrun.testing.devices import device
from bigrun.testing.runner import Runner, RunResult
from bigrun_cuda import allocator, tuning
from bigrun_cuda.attention import allowed_kernels, attention_row, chosen_kernel
from bigrun_cuda.flags import FLAGS, apply_flag
from bigrun_cuda.plan import ALLOCATOR, ATTENTION, BENCHMARK, EXPANDABLE, PRECISION, SUMS


class TestContract(PluginContract):
    plugin = "cuda-tuning"
    config: ClassVar[dict[str, Any]] = {"tf32": True}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A run on this processor takes itself to be on a GPU of these facts."""

    def pretend(name: str, **changes: Any) -> DeviceFacts:
        facts = attrs.evolve(device(name), **changes)
        monkeypatch.setattr("bigrun.devices.read.read_facts", lambda *_: facts)
        return facts

    return pretend


@pytest.fixture(autouse=True)
def flags() -> Iterator[None]:
    """Flags of torch are afterwards as they were; that a run gives them back is tested by itself."""
    before = {name: flag.read() for name, flag in FLAGS.items()}
    yield
    for name, value in before.items():
        FLAGS[name].write(value)


def rows_of(result: RunResult) -> dict[str, Setting]:
    assert result.run is not None
    return {row.name: row for row in result.run.settings}


class Look:
    """What is set while the run goes on."""

    def __init__(self) -> None:
        self.flags: dict[str, str] = {}
        self.kernels: list[str] = []

    @hookimpl
    def before_step(self) -> None:
        self.flags = {name: flag.read() for name, flag in FLAGS.items()}
        self.kernels = allowed_kernels()


# -- on another device ------------------------------------------------------------------------------------------------


def test_on_a_processor_it_changes_nothing_and_says_so_once(bigrunner: Runner) -> None:
    look, plain = Look(), bigrunner.run()
    tuned = bigrunner.run("cuda-tuning", config={"tf32": True, "bf16_sums": "precise"}, companions=[look])
    tuned.assert_finished()
    assert rows_of(tuned) == {}
    assert look.flags == {PRECISION: "highest", SUMS: "fast", BENCHMARK: "off"}
    assert [event.message for event in tuned.events if event.kind == "cuda-tuning"] == [
        "cuda-tuning is for NVIDIA GPUs: it changes nothing on this device (cpu)"
    ]
    assert tuned.losses == plain.losses


def test_on_an_amd_gpu_it_changes_nothing(bigrunner: Runner, gpu: Any) -> None:
    gpu("gfx1151-c")
    result = bigrunner.run("cuda-tuning", config={"compile": True, "fp8": True})
    result.assert_finished()
    assert rows_of(result) == {}
    (event,) = [event for event in result.events if event.kind == "cuda-tuning"]
    assert "(rocm)" in event.message


# -- on an NVIDIA GPU -------------------------------------------------------------------------------------------------


def test_every_setting_is_a_row_and_is_given_back(bigrunner: Runner, gpu: Any) -> None:
    gpu("rtx4090")
    look, before = Look(), allowed_kernels()
    config = {"bf16_sums": "precise", "cudnn_benchmark": True, "attention": ["efficient", "math"]}
    result = bigrunner.run("cuda-tuning", config=config, companions=[look], hardware={"precision": "bf16"})
    result.assert_finished()
    rows = rows_of(result)
    assert [*rows] == [PRECISION, SUMS, BENCHMARK, ATTENTION, "AdamW"]
    high = rows[PRECISION]
    assert (high.before, high.after, high.took_effect, high.is_custom) == ("highest", "high", True, False)
    assert "torch.get_float32_matmul_precision() is high" in high.evidence
    for name, after in ((SUMS, "precise"), (BENCHMARK, "on"), (ATTENTION, "efficient, math")):
        assert (rows[name].after, rows[name].is_custom) == (after, True)
    assert (rows[SUMS].took_effect, rows[BENCHMARK].took_effect) == (True, True)
    assert look.flags == {PRECISION: "high", SUMS: "precise", BENCHMARK: "on"}
    assert look.kernels == ["efficient", "math"]
    assert {name: flag.read() for name, flag in FLAGS.items()} == {PRECISION: "highest", SUMS: "fast", BENCHMARK: "off"}
    assert allowed_kernels() == before


def test_a_run_that_cannot_start_gives_back_what_was_set(bigrunner: Runner, gpu: Any) -> None:
    gpu("rtx4090")
    result = bigrunner.run("cuda-tuning", config={"bf16_sums": "precise", "attention": ["math"]}, dataset=False)
    assert isinstance(result.error, NoImagesError)
    assert FLAGS[SUMS].read() == "fast"
    assert "flash" in allowed_kernels()


def test_a_kernel_that_the_device_does_not_take_had_no_effect(bigrunner: Runner, gpu: Any) -> None:
    gpu("rtx4090")
    result = bigrunner.run("cuda-tuning", config={"attention": ["efficient", "math"]}, hardware={"precision": "bf16"})
    row = rows_of(result)[ATTENTION]
    assert row.took_effect is False  # a processor has no such kernel
    assert "torch takes math" in row.evidence
    assert "where efficient was expected" in row.evidence
    assert "grows with the square of the tokens" in row.evidence
    (event,) = [event for event in result.events if event.kind == "setting-without-effect"]
    assert event.facts["setting"] == ATTENTION


def test_kernels_of_which_none_can_be_used_are_refused(bigrunner: Runner, gpu: Any) -> None:
    gpu("rtx4090")
    result = bigrunner.run("cuda-tuning", config={"attention": ["efficient"]})  # a processor has no such kernel
    assert isinstance(result.error, UsageError)
    assert str(result.error) == (
        "plugins.cuda-tuning.attention = ['efficient']: none of these can do forward and backward pass on sm_89 in "
        "fp32 with heads of 16 channels: add 'math', or leave the option out"
    )
    assert "flash" in allowed_kernels()


ORDER = ["flash", "efficient", "math", "cudnn"]


@pytest.mark.parametrize(
    ("value", "expected", "chosen", "took_effect"),
    [
        (None, "flash", "flash", True),
        (None, "flash", "efficient", None),  # as good, and not what is known of torch
        (None, "math", "math", False),
        (None, "flash", "math", False),
        ("math", "math", "math", True),
        ("efficient, flash", "efficient", "flash", False),
    ],
)
def test_when_kernels_of_attention_had_an_effect(
    value: str | None, expected: str, chosen: str, took_effect: bool | None
) -> None:
    after = ORDER if value is None else value.split(", ")
    row = attention_row(Planned(ATTENTION, value, "a reason"), ORDER, after, expected, chosen)
    assert row.took_effect is took_effect
    assert attention_row(Planned(ATTENTION, "math", "a reason"), ORDER, ORDER, "math", "math").took_effect is False


def test_torchs_own_order_is_a_row_too(bigrunner: Runner, gpu: Any) -> None:
    gpu("rtx4090")
    row = rows_of(bigrunner.run("cuda-tuning", hardware={"precision": "bf16"}))[ATTENTION]
    assert (row.before, row.after, row.took_effect) == (row.after, "flash, efficient, math, cudnn", True)
    assert row.evidence == "torch takes flash for heads of this size; torch's own order"


def test_the_optimizer_is_fused_and_a_row(bigrunner: Runner, gpu: Any) -> None:
    gpu("h200")
    row = rows_of(bigrunner.run("cuda-tuning"))["AdamW"]
    assert (row.after, row.took_effect) == ("fused", True)
    plain = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    assert tuning.optimizer_row(plain) == Setting(
        "SGD",
        None,
        "not fused",
        None,
        "optimizer.defaults['fused'] is None; the optimizer is not this plugin's to choose",
    )


def test_losses_are_those_without_it(bigrunner: Runner, gpu: Any) -> None:
    gpu("a100")
    assert bigrunner.run("cuda-tuning").losses == bigrunner.run().losses


def test_the_values_of_the_device_are_taken_where_nobody_has_set_them(bigrunner: Runner, gpu: Any) -> None:
    gpu("rtx4090")
    data = {"micro_batch": None, "effective_batch": 8, "workers": 0}
    result = bigrunner.run("cuda-tuning", data=data, steps=1)
    result.assert_finished()
    assert result.run is not None
    config = result.run.config
    assert (config.data.micro_batch, config.data.workers, config.data.prefetch) == (8, 0, 4)
    assert config.hardware.activation_checkpointing == "none"
    chosen = {choice.path: choice.why for choice in config.choices}
    assert "GiB expected of " in chosen["data.micro_batch"]
    assert "data.workers" not in chosen
    kept = bigrunner.run("cuda-tuning", data={"micro_batch": 2}, steps=1).run
    assert kept is not None
    assert kept.config.data.micro_batch == 2


# -- compilation and fp8 ----------------------------------------------------------------------------------------------


def test_fp8_without_compilation_is_refused(bigrunner: Runner) -> None:
    result = bigrunner.run("cuda-tuning", config={"fp8": True})
    assert isinstance(result.error, ConfigError)
    assert "plugins.cuda-tuning.fp8: needs compile = true" in str(result.error)


def test_compilation_without_its_tools_is_refused(bigrunner: Runner, gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu("rtx4090")
    monkeypatch.setattr(tuning, "what_compiles", lambda _: {"has_triton": False, "has_compiler": True})
    result = bigrunner.run("cuda-tuning", config={"compile": True})
    assert isinstance(result.error, UsageError)
    assert str(result.error).startswith("plugins.cuda-tuning.compile = true, but Triton is not installed: pip install")
    assert not result.directory.exists()


def test_fp8_on_a_gpu_without_it_is_refused(bigrunner: Runner, gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu("rtx3090")
    monkeypatch.setattr(tuning, "what_compiles", lambda _: {"has_triton": True, "has_compiler": True})
    monkeypatch.setattr(tuning, "torchao_problem", lambda: pytest.fail("it is asked last"))
    result = bigrunner.run("cuda-tuning", config={"compile": True, "fp8": True})
    assert isinstance(result.error, UsageError)
    assert str(result.error).startswith("plugins.cuda-tuning.fp8 = true, but sm_86 multiplies no matrices in fp8")


@pytest.mark.parametrize("name", ["bf16_sums", "attention"])
def test_unknown_words_are_refused(bigrunner: Runner, name: str) -> None:
    wrong = {"bf16_sums": "exact", "attention": ["flash", "magic"]}[name]
    result = bigrunner.run("cuda-tuning", config={name: wrong})
    assert isinstance(result.error, ConfigError)
    assert f"plugins.cuda-tuning.{name}: expected" in str(result.error)


# -- flags and the allocator ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "value"), [(PRECISION, "high"), (SUMS, "precise"), (BENCHMARK, "on")])
def test_a_flag_is_set_read_back_and_given_back(name: str, value: str) -> None:
    before = FLAGS[name].read()
    row, undo = apply_flag(Planned(name, value, "a reason"))
    assert (row.before, row.after, row.took_effect) == (before, value, True)
    assert FLAGS[name].read() == value
    assert undo is not None
    undo()
    assert FLAGS[name].read() == before


def test_a_flag_behind_an_obstacle_had_no_effect() -> None:
    row, _ = apply_flag(Planned(PRECISION, "high", "asked for", is_custom=True, obstacle="sm_75 has no TF32"))
    assert row.took_effect is False
    assert row.evidence.endswith("sm_75 has no TF32")


def test_both_ways_in_which_torch_tells_of_tf32_agree() -> None:
    """Where one was set alone, reading the other raises."""
    for value, flag, name in (("high", True, "tf32"), ("highest", False, "ieee")):
        FLAGS[PRECISION].write(value)
        assert torch.backends.cuda.matmul.allow_tf32 is flag
        assert torch.backends.cuda.matmul.fp32_precision == name


def test_the_kernel_that_torch_takes_is_told() -> None:
    cpu = torch.device("cpu")
    assert chosen_kernel(2, 64, torch.float32, cpu) == "flash"
    with torch.nn.attention.sdpa_kernel([torch.nn.attention.SDPBackend.MATH]):
        assert chosen_kernel(2, 64, torch.float32, cpu) == "math"


SET = Planned(ALLOCATOR, EXPANDABLE, "a reason")


@pytest.mark.parametrize("found", [True, False, None])
def test_the_allocators_row_is_what_the_allocator_says(monkeypatch: pytest.MonkeyPatch, found: bool | None) -> None:
    monkeypatch.setattr(allocator, "has_expandable_segments", lambda: found)
    row, undo = allocator.allocator_row(SET, None, torch_was_there=False)
    assert (row.before, row.after, row.took_effect, undo) == (None, EXPANDABLE, found, None)
    assert "_snapshot()" in row.evidence


def test_an_allocator_that_was_there_before_is_changed_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ["expandable_segments:False"]
    monkeypatch.setattr(allocator, "set_allocator", settings.append)
    monkeypatch.setattr(allocator, "has_expandable_segments", lambda: settings[-1].endswith("True"))
    row, undo = allocator.allocator_row(SET, None, torch_was_there=True)
    assert row.took_effect is True
    assert undo is not None
    undo()
    assert settings == ["expandable_segments:False", EXPANDABLE, "expandable_segments:False"]


def test_an_allocator_that_cannot_be_changed_any_more_had_no_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: str) -> None:
        raise RuntimeError("too late")

    monkeypatch.setattr(allocator, "set_allocator", refuse)
    monkeypatch.setattr(allocator, "has_expandable_segments", lambda: False)
    row, undo = allocator.allocator_row(SET, None, torch_was_there=True)
    assert (row.took_effect, undo) == (False, None)
    assert "too late" in row.evidence


def test_a_build_without_gpu_does_not_tell_of_an_allocator() -> None:
    if torch.version.cuda is not None:
        pytest.skip("this torch is built for CUDA, and tells")
    assert allocator.has_expandable_segments() is None


ENVIRONMENT = """
import os, sys, types
import bigrun_cuda.plugin as plugin
from bigrun.devices import TorchBuild

plugin.torch_build = lambda: TorchBuild("2.13.0+cu130", cuda="13.0")
hardware = types.SimpleNamespace(device=sys.argv[1])
tuning = plugin.CudaTuning(plugin.CudaConfig())
tuning.configure_runtime(types.SimpleNamespace(config=types.SimpleNamespace(hardware=hardware)))
assert "torch" not in sys.modules, "it would not be heard any more"
print(os.environ.get("PYTORCH_CUDA_ALLOC_CONF"))
tuning.teardown()
print(os.environ.get("PYTORCH_CUDA_ALLOC_CONF"))
"""


@pytest.mark.parametrize(
    ("wish", "there", "expected"),
    [
        ("auto", None, [EXPANDABLE, "None"]),
        ("cuda", "max_split_size_mb:64", ["max_split_size_mb:64"] * 2),
        ("cpu", None, ["None", "None"]),
    ],
)
def test_the_environment_is_set_before_torch_is_imported(wish: str, there: str | None, expected: list[str]) -> None:
    environment = {name: value for name, value in os.environ.items() if name != ALLOCATOR}
    environment |= {ALLOCATOR: there} if there else {}
    words = [sys.executable, "-c", ENVIRONMENT, wish]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == expected


def test_the_environment_of_a_run_with_a_torch_for_cuda_on_a_processor_is_given_back_at_once(
    bigrunner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bigrun_cuda.plugin.torch_build", lambda: TorchBuild("2.13.0+cu130", cuda="13.0"))
    monkeypatch.delenv(ALLOCATOR, raising=False)
    seen: list[str | None] = []

    class Watch:
        @hookimpl(trylast=True)
        def configure_runtime(self) -> None:
            seen.append(os.environ.get(ALLOCATOR))

        @hookimpl
        def before_step(self) -> None:
            seen.append(os.environ.get(ALLOCATOR))

    bigrunner.run("cuda-tuning", companions=[Watch()], steps=1, hardware={"device": "auto"}).assert_finished()
    assert seen == [EXPANDABLE, None]
