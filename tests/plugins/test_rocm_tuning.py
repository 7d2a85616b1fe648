"""rocm-tuning in a run: on a CPU it does nothing; on an AMD GPU, a stand-in here, every setting has its row."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest
import torch
from rocm.fakes import RESULTS, STRIX_HALO, VALIDATORS, FakeBlas, FakeGpu, sysfs

import bigrun_rocm.self_test
from bigrun import hookimpl
from bigrun.devices import Setting, TorchBuild
from bigrun.errors import UsageError
from bigrun.events import Event
from bigrun.testing.contract import PluginContract
from bigrun.testing.devices import device
from bigrun.testing.runner import Runner, RunResult
from bigrun_rocm.attention import Measured
from bigrun_rocm.results_file import read_results

GIB = 2**30
BF16 = {"hardware": {"precision": "bf16"}}


@pytest.fixture(autouse=True)
def no_variables_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in list(os.environ):
        if name.startswith(("PYTORCH_", "MIOPEN_", "TORCH_ROCM", "TORCH_BLAS", "HSA_")):
            monkeypatch.delenv(name)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeGpu:
    """A Strix Halo with what its sysfs says."""
    return FakeGpu(monkeypatch, sysfs(tmp_path / "root"))


@contextlib.contextmanager
def environment(**variables: str) -> Iterator[None]:
    """What the user has set."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


def rows(result: RunResult) -> dict[str, Setting]:
    assert result.run is not None
    return {setting.name: setting for setting in result.run.settings}


def messages(result: RunResult, kind: str) -> list[str]:
    return [event.message for event in result.events if event.kind == kind]


# -- on a CPU -------------------------------------------------------------------------------------------------


class TestContract(PluginContract):
    plugin = "rocm-tuning"
    config: ClassVar[dict[str, Any]] = {"hipblaslt": True, "tunableop": True}


def test_on_another_device_it_changes_nothing_and_says_so_once(bigrunner: Runner) -> None:
    plain = bigrunner.run(steps=2)
    config = {"hipblaslt": True, "memory_limit_gib": 1.0, "synchronize_after_backward": True}
    result = bigrunner.run("rocm-tuning", config=config, steps=2)
    result.assert_finished()
    assert messages(result, "rocm-tuning") == ["rocm-tuning is for AMD GPUs: it changes nothing on this device (cpu)"]
    assert rows(result) == {}
    assert result.losses == plain.losses
    assert result.run is not None
    assert not [line for line in result.run.header if line.startswith("memory") or "gfx" in line]


def test_a_torch_for_rocm_that_trains_on_a_cpu_keeps_no_variables(
    bigrunner: Runner, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu.facts = attrs.evolve(device("cpu"), torch=TorchBuild("2.13.0+rocm7.1", hip="7.1.52802"))
    seen = Environment()
    result = bigrunner.run("rocm-tuning", companions=[seen], steps=1)
    result.assert_finished()
    assert not seen.variables
    assert len(messages(result, "rocm-tuning")) == 1


# -- every setting has its row, and is gone after the run -----------------------------------------------------


class Environment:
    """What a step sees."""

    def __init__(self) -> None:
        self.variables: dict[str, str] = {}
        self.flash = self.efficient = True

    @hookimpl
    def before_step(self) -> None:
        prefixes = ("PYTORCH_", "MIOPEN_", "TORCH_ROCM")
        self.variables = {name: value for name, value in os.environ.items() if name.startswith(prefixes)}
        self.variables.pop("PYTORCH_TUNABLEOP_FILENAME", None)
        self.flash = torch.backends.cuda.flash_sdp_enabled()
        self.efficient = torch.backends.cuda.mem_efficient_sdp_enabled()


def test_settings_of_a_strix_halo(bigrunner: Runner, gpu: FakeGpu) -> None:
    seen = Environment()
    result = bigrunner.run("rocm-tuning", companions=[seen], steps=1, **BF16)
    result.assert_finished()
    took = {name: row.took_effect for name, row in rows(result).items()}
    assert took == {
        "PYTORCH_CUDA_ALLOC_CONF": True,
        "MIOPEN_USER_DB_PATH": None,
        "MIOPEN_CUSTOM_CACHE_DIR": None,
        "memory limit": True,
        "BLAS library": True,
        "TunableOp numerical check": None,
        "TunableOp": True,
        "TunableOp tuning": True,
        "TunableOp results": True,
        "TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL": True,
        "flash attention": True,
        "memory-efficient attention": True,
    }
    assert not any(row.is_custom for row in rows(result).values())
    assert seen.variables["PYTORCH_CUDA_ALLOC_CONF"] == "garbage_collection_threshold:0.8"
    assert seen.variables["TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL"] == "1"
    assert "torch-2.13.0+rocm7.1-hip-7.1.52802" in seen.variables["MIOPEN_CUSTOM_CACHE_DIR"]
    assert rows(result)["BLAS library"].after == "cublaslt"
    assert "off by" in rows(result)["flash attention"].evidence


def test_nothing_outlives_the_run(bigrunner: Runner, gpu: FakeGpu) -> None:
    before = dict(os.environ)
    config = {"flash_attention": False, "memory_limit_gib": 10.0}
    bigrunner.run("rocm-tuning", config=config, steps=1).assert_finished()
    assert gpu.least_fraction == pytest.approx(10 / 62.54)
    assert {name: value for name, value in os.environ.items() if before.get(name) != value} == {}
    assert (gpu.fraction, gpu.blas.now, gpu.tunableop.on, gpu.tunableop.tunes) == (1.0, "Default", False, True)
    assert gpu.tunableop.check == (False, 1e-5, 1e-5)
    assert gpu.tunableop.filename == "tunableop_results.csv"
    assert torch.backends.cuda.flash_sdp_enabled()


def test_it_is_undone_after_a_run_that_fails(bigrunner: Runner, gpu: FakeGpu) -> None:
    heard = Heard()
    with pytest.raises(RuntimeError, match="something else"):
        bigrunner.run("rocm-tuning", companions=[Failing("something else"), heard], steps=1)
    assert (gpu.fraction, gpu.blas.now, gpu.tunableop.on) == (1.0, "Default", False)
    assert "TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL" not in os.environ
    assert "gpu-failure" not in heard.events


def test_what_the_user_has_set_wins(bigrunner: Runner, gpu: FakeGpu) -> None:
    seen = Environment()
    config = {"hipblaslt": False, "flash_attention": False, "memory_limit_gib": 20.0}
    with environment(
        PYTORCH_HIP_ALLOC_CONF="expandable_segments:True",
        MIOPEN_USER_DB_PATH="/mine",
        TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL="0",
        PYTORCH_TUNABLEOP_ENABLED="0",
    ):
        result = bigrunner.run("rocm-tuning", config=config, companions=[seen], steps=1)
    result.assert_finished()
    custom = {name for name, row in rows(result).items() if row.is_custom}
    assert custom == {
        "PYTORCH_HIP_ALLOC_CONF",
        "MIOPEN_USER_DB_PATH",
        "TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL",
        "TunableOp",
        "TunableOp tuning",
        "BLAS library",
        "flash attention",
        "memory limit",
    }
    assert "PYTORCH_CUDA_ALLOC_CONF" not in seen.variables
    assert seen.variables["TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL"] == "0"
    assert not seen.flash
    assert rows(result)["memory limit"].after == "20.0 GiB"
    assert not gpu.tunableop.on
    assert result.run is not None
    assert any("expandable_segments crash" in line for line in result.run.header)


def test_a_library_that_torch_does_not_take_is_said(bigrunner: Runner, gpu: FakeGpu) -> None:
    gpu.blas.has_hipblaslt = False
    result = bigrunner.run("rocm-tuning", steps=1)
    row = rows(result)["BLAS library"]
    assert (row.after, row.took_effect) == ("cublaslt", False)
    assert "is Cublas;" in row.evidence
    assert "unsupported architecture" in row.evidence
    (told,) = messages(result, "setting-without-effect")
    assert told.startswith("BLAS library = cublaslt had no effect")


def test_an_allocator_that_has_not_heard_is_said(bigrunner: Runner, gpu: FakeGpu) -> None:
    gpu.allocator["garbage_collection_threshold"] = 0.0
    row = rows(bigrunner.run("rocm-tuning", steps=1))["PYTORCH_CUDA_ALLOC_CONF"]
    assert row.took_effect is False
    assert row.evidence.endswith("garbage_collection_threshold is 0.0: torch was imported before it was set")
    del gpu.allocator["garbage_collection_threshold"]
    assert rows(bigrunner.run("rocm-tuning", steps=1))["PYTORCH_CUDA_ALLOC_CONF"].took_effect is None


def test_a_build_for_the_cpu_says_that_it_has_no_hipblaslt(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real function of torch, which raises here."""
    from bigrun.devices import Planned
    from bigrun_rocm.blas import apply_blas

    if torch.version.hip or torch.version.cuda:
        pytest.skip("this torch has the library")
    row, undo = apply_blas(Planned("BLAS library", "cublaslt", "why not"))
    assert row.took_effect is False
    assert "not been compiled with cuBLASLt" in row.evidence
    assert undo is not None
    undo()


# -- TunableOp ------------------------------------------------------------------------------------------------


class Products:
    """Steps with matrix products: one shape that is always there, and one that is new in each of some steps."""

    def __init__(self, gpu: FakeGpu, *, new_in: Container[int] = range(1000)) -> None:
        self.tunableop = gpu.tunableop
        self.new_in = new_in
        self.tuned: list[bool] = []
        """Whether shapes were measured in each step."""

    @hookimpl
    def before_step(self, step: int) -> None:
        self.tuned.append(self.tunableop.tunes)
        self.tunableop.multiply("tn_always")
        if step in self.new_in:
            self.tunableop.multiply(f"tn_of_step_{step}")


def results_of(gpu: FakeGpu, tmp_path: Path) -> Path:
    (path,) = (tmp_path / "cache/bigrun/rocm/tunableop").glob("*/results-0.csv")
    return path


def test_it_measures_in_the_first_steps_only(bigrunner: Runner, gpu: FakeGpu, tmp_path: Path) -> None:
    config = {"tunableop_warmup_steps": 2}
    result = bigrunner.run("rocm-tuning", config=config, companions=[Products(gpu)], steps=4)
    result.assert_finished()
    path = results_of(gpu, tmp_path)
    assert path.parent.name == "gfx1151-torch-2.13.0+rocm7.1-hip-7.1.52802-hipblaslt-100200-26aae437f6"
    shapes = [shape for _, shape in read_results(path).solutions]
    assert shapes == ["tn_always", "tn_of_step_1", "tn_of_step_2"]
    (told,) = messages(result, "tunableop")
    assert told == (
        "TunableOp knows 3 shapes after 2 steps and measures no more, although 1 of them came in the last one: others "
        f"have torch's default kernels; {path} has 3"
    )
    assert (result.directory / "rocm-tuning" / "tunableop.csv").read_bytes() == path.read_bytes()


def test_it_measures_no_more_when_no_new_shapes_come(bigrunner: Runner, gpu: FakeGpu, tmp_path: Path) -> None:
    """Nothing is measured in the middle of a run, whatever shapes it meets: Gram's crops, a stage at another size."""
    products = Products(gpu, new_in=(3, 11))
    result = bigrunner.run("rocm-tuning", companions=[products], steps=12, model={"drop_path_fraction": 0.0})
    assert products.tuned == [True] * 8 + [False] * 4  # step 3, and five without a new one
    (event,) = [event for event in result.events if event.kind == "tunableop"]
    assert event.facts == {"shapes": 2, "steps": 8, "shapes_of_last_step": 0}
    assert event.message == (
        f"TunableOp knows 2 shapes after 8 steps and measures no more; {results_of(gpu, tmp_path)} has 2"
    )
    assert [shape for _, shape in read_results(results_of(gpu, tmp_path)).solutions] == ["tn_always", "tn_of_step_3"]


def test_each_pair_of_crop_sizes_has_its_time(bigrunner: Runner, gpu: FakeGpu) -> None:
    products = Products(gpu, new_in=())
    pairs = {"sizes_px": [[32, 16], [48, 16]], "global_size_px": None, "local_size_px": None}
    model = {"drop_path_fraction": 0.0}
    bigrunner.run("rocm-tuning", companions=[products], steps=13, views=pairs, model=model).assert_finished()
    assert products.tuned == [True] * 11 + [False] * 2


def test_stochastic_depth_keeps_the_warm_up_open_longer(bigrunner: Runner, gpu: FakeGpu) -> None:
    """Of the numbers of kept crops one may come for the first time after five steps without a new one."""
    products = Products(gpu, new_in=(9,))
    result = bigrunner.run("rocm-tuning", companions=[products], steps=31, model={"drop_path_fraction": 0.3})
    result.assert_finished()
    assert products.tuned == [True] * 29 + [False] * 2


def test_no_kernel_is_taken_whose_numbers_were_not_checked(bigrunner: Runner, gpu: FakeGpu) -> None:
    result = bigrunner.run("rocm-tuning", companions=[Products(gpu)], steps=2, **BF16)
    assert gpu.tunableop.checked == [(True, 1e-5, 1.6e-2)] * 3
    assert rows(result)["TunableOp numerical check"].after == "atol 1e-05, rtol 0.016"
    config = {"tunableop_numerical_check": False}
    again = bigrunner.run("rocm-tuning", config=config, companions=[Products(gpu, new_in=[3])], steps=3)
    assert gpu.tunableop.checked[3:] == [(False, 1e-5, 1e-4)]
    assert rows(again)["TunableOp numerical check"].is_custom


def test_a_check_that_would_stop_torch_is_refused(bigrunner: Runner, gpu: FakeGpu) -> None:
    with environment(PYTORCH_TUNABLEOP_NUMERICAL_CHECK="1"):
        result = bigrunner.run("rocm-tuning", steps=1)
        assert isinstance(result.error, UsageError)
        assert "it must be atol_rtol, such as" in str(result.error)
        bigrunner.run("rocm-tuning", config={"tunableop": False}, steps=1).assert_finished()


def test_the_self_test_of_attention_is_not_measured(
    bigrunner: Runner, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    was_on = []

    def measure(*_: object) -> dict[str, Measured]:
        was_on.append(gpu.tunableop.on)
        return dict.fromkeys(("flash", "memory-efficient", "math"), RIGHT)

    monkeypatch.setattr(bigrun_rocm.self_test, "measure", measure)
    bigrunner.run("rocm-tuning", steps=1, **BF16).assert_finished()
    assert was_on == [False]


def test_a_file_that_torch_refuses_is_put_aside(bigrunner: Runner, gpu: FakeGpu, tmp_path: Path) -> None:
    """For a reason of its own; else it would add to it in vain for ever."""
    first = bigrunner.run("rocm-tuning", companions=[Products(gpu)], steps=1)
    path = results_of(gpu, tmp_path)
    before = path.read_bytes()
    gpu.tunableop.refuses, gpu.tunableop.results = True, []
    again = bigrunner.run("rocm-tuning", steps=2, companions=[Products(gpu)], directory=first.directory)
    assert path.with_suffix(".rejected").read_bytes() == before
    assert "read_file() is False" in messages(again, "tunableop")[0]
    assert [shape for _, shape in read_results(path).solutions] == ["tn_always", "tn_of_step_2"]


def test_a_torch_that_writes_results_at_its_end_is_told_to_write_them(
    bigrunner: Runner, gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before 2.10: at every checkpoint while it measures, and when it ends to."""
    gpu.tunableop.install_old(monkeypatch)
    result = bigrunner.run("rocm-tuning", companions=[Products(gpu)], steps=2, run={"checkpoint_every_steps": 1})
    copy = result.directory / "rocm-tuning" / "tunableop.csv"
    assert len(read_results(copy).solutions) == 3
    assert rows(result)["TunableOp numerical check"].took_effect is False
    config = {"tunableop_warmup_steps": 1}
    again = bigrunner.run("rocm-tuning", config=config, companions=[Products(gpu)], steps=4, directory=result.directory)
    assert len(read_results(results_of(gpu, tmp_path)).solutions) == 4
    assert messages(again, "tunableop")[-1].endswith(" has 4")


def test_each_process_measures_anew_and_knows_what_was_measured(
    bigrunner: Runner, gpu: FakeGpu, tmp_path: Path
) -> None:
    config = {"tunableop_warmup_steps": 1}
    first = bigrunner.run("rocm-tuning", config=config, companions=[Products(gpu)], steps=2)
    again = bigrunner.run("rocm-tuning", config=config, companions=[Products(gpu)], steps=4, directory=first.directory)
    assert rows(again)["TunableOp results"].evidence.endswith(", of which torch has taken 2 results")
    shapes = [shape for _, shape in read_results(results_of(gpu, tmp_path)).solutions]
    assert shapes == ["tn_always", "tn_of_step_1", "tn_of_step_3"]


def test_the_copy_of_the_run_serves_where_the_cache_is_gone(bigrunner: Runner, gpu: FakeGpu, tmp_path: Path) -> None:
    first = bigrunner.run("rocm-tuning", companions=[Products(gpu)], steps=1)
    before = results_of(gpu, tmp_path).read_bytes()
    shutil.rmtree(tmp_path / "cache")
    again = bigrunner.run("rocm-tuning", steps=2, directory=first.directory)
    (told,) = messages(again, "tunableop")
    assert "2 results of the run's own copy" in told
    assert results_of(gpu, tmp_path).read_bytes() == before


def test_tuning_that_the_environment_controls_is_not_ended(bigrunner: Runner, gpu: FakeGpu) -> None:
    config = {"tunableop_warmup_steps": 1}
    with environment(PYTORCH_TUNABLEOP_TUNING="1"):
        result = bigrunner.run("rocm-tuning", config=config, companions=[Products(gpu)], steps=3)
    assert messages(result, "tunableop") == []
    assert len(gpu.tunableop.results) == 4
    with environment(PYTORCH_TUNABLEOP_FILENAME="mine.csv"):
        result = bigrunner.run("rocm-tuning", config=config, steps=1)
    assert messages(result, "tunableop") == ["TunableOp knows 4 shapes after a step and measures no more"]
    assert rows(result)["TunableOp results"].is_custom
    assert gpu.tunableop.filename == "tunableop_results.csv"
    assert not (result.directory / "rocm-tuning").exists()


def test_a_cache_that_cannot_be_written_is_refused(bigrunner: Runner, gpu: FakeGpu, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = bigrunner.run("rocm-tuning", config={"cache_directory": str(tmp_path / "file")}, steps=1)
    assert isinstance(result.error, UsageError)
    assert "plugins.rocm-tuning.cache_directory" in str(result.error)
    assert not gpu.tunableop.on


def test_it_is_not_used_where_nobody_measured_it(bigrunner: Runner, gpu: FakeGpu) -> None:
    gpu.facts = attrs.evolve(device("gfx942"), torch=STRIX_HALO.torch)
    result = bigrunner.run("rocm-tuning", companions=[Products(gpu)], steps=2)
    assert rows(result)["TunableOp"].after == "off"
    assert "TunableOp results" not in rows(result)
    assert gpu.tunableop.results == []
    assert not (result.directory / "rocm-tuning").exists()


# -- attention ------------------------------------------------------------------------------------------------

RIGHT = Measured(forward_error=3e-3, backward_error=7e-3)
WRONG = Measured(forward_error=float("nan"), backward_error=7e-3)


def measured_as(monkeypatch: pytest.MonkeyPatch, **results: Measured) -> None:
    found = {name.replace("_", "-"): result for name, result in results.items()}
    monkeypatch.setattr(bigrun_rocm.self_test, "measure", lambda *_: found)


def test_a_kernel_with_wrong_numbers_is_not_used_and_said(
    bigrunner: Runner, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured_as(monkeypatch, flash=WRONG, memory_efficient=RIGHT, math=RIGHT)
    seen = Environment()
    result = bigrunner.run("rocm-tuning", companions=[seen], steps=1, **BF16)
    result.assert_finished()
    assert (seen.flash, seen.efficient) == (False, True)
    (told,) = messages(result, "attention-kernels")
    assert (
        told
        == "flash attention off by nan forward, 7.0e-03 backward of fp32 on the CPU (allowed: 0.02): it is not used"
    )
    assert torch.backends.cuda.flash_sdp_enabled()


def test_a_gpu_without_a_right_kernel_is_refused(
    bigrunner: Runner, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured_as(monkeypatch, flash=WRONG, memory_efficient=WRONG, math=WRONG)
    result = bigrunner.run("rocm-tuning", steps=1)
    assert isinstance(result.error, UsageError)
    assert "no kernel of attention computes right numbers" in str(result.error)
    assert not result.directory.exists()


def test_a_gate_behind_which_nothing_runs_had_no_effect(
    bigrunner: Runner, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = Measured(problem="Flash attention was not compiled for current AMD GPU architecture.")
    measured_as(monkeypatch, flash=absent, memory_efficient=absent, math=RIGHT)
    result = bigrunner.run("rocm-tuning", steps=1, **BF16)
    assert rows(result)["TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL"].took_effect is False
    assert any("memory grows with the square of the tokens" in told for told in messages(result, "attention-kernels"))


# -- memory, warnings, failures -------------------------------------------------------------------------------


def test_the_header_has_the_budget_and_the_known_crashes(bigrunner: Runner, gpu: FakeGpu) -> None:
    result = bigrunner.run("rocm-tuning", steps=1)
    assert result.run is not None
    header = "\n".join(result.run.header)
    assert "62.5 GiB for the run, by torch; others: " in header
    assert "the GPU may use 62.5 of 126 GiB; more with `amd-ttm --set` (TTM's limit is 62.5 GiB)" in header
    assert "MES firmware 0x83" in header
    assert "amdgpu.cwsr_enable=0" in header
    assert gpu.fraction == 1.0


def test_every_amd_gpu_has_a_limit_for_without_one_torch_gives_nothing_back(bigrunner: Runner, gpu: FakeGpu) -> None:
    gpu.facts = attrs.evolve(device("gfx1100"), torch=STRIX_HALO.torch)
    result = bigrunner.run("rocm-tuning", steps=1)
    assert gpu.least_fraction == pytest.approx(0.99)
    assert rows(result)["memory limit"].took_effect is True
    assert rows(result)["PYTORCH_CUDA_ALLOC_CONF"].took_effect is True
    with environment(PYTORCH_CUDA_ALLOC_CONF="max_split_size_mb:512"):
        again = bigrunner.run("rocm-tuning", steps=1)
    assert "memory limit" not in rows(again)


def test_a_run_that_continues_beside_another_program_has_its_micro_batch(
    bigrunner: Runner, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {"effective_batch": 8, "micro_batch": None}
    first = bigrunner.run("rocm-tuning", steps=1, data=data)
    busy = attrs.evolve(gpu.facts.host, ram_free_bytes=GIB)
    gpu.facts = attrs.evolve(gpu.facts, free_bytes=GIB // 100, host=busy)
    again = bigrunner.run("rocm-tuning", steps=2, data=data, directory=first.directory)
    assert first.run is not None
    assert again.run is not None
    assert again.run.config.data.micro_batch == first.run.config.data.micro_batch
    assert rows(again)["memory limit"].after == rows(first)["memory limit"].after
    assert any("0.0 are free at the moment" in line for line in again.run.header)


def test_waiting_after_the_backward_pass_is_an_option(bigrunner: Runner, gpu: FakeGpu) -> None:
    bigrunner.run("rocm-tuning", steps=2, accumulate=2).assert_finished()
    assert gpu.synchronized == 0
    config = {"synchronize_after_backward": True}
    bigrunner.run("rocm-tuning", config=config, steps=2, accumulate=2).assert_finished()
    assert gpu.synchronized == 4


class Heard:
    """The events of a run that raises, by kind."""

    def __init__(self) -> None:
        self.events: dict[str, Event] = {}

    @hookimpl
    def on_event(self, event: Event) -> None:
        self.events[event.kind] = event


class Failing:
    """A step in which a kernel fails."""

    def __init__(self, message: str) -> None:
        self.message = message

    @hookimpl
    def before_step(self) -> None:
        raise RuntimeError(self.message)


def test_a_kernel_that_fails_leads_to_advice(bigrunner: Runner, gpu: FakeGpu) -> None:
    failing = Failing("HIP error: unspecified launch failure\nHIP kernel errors might be asynchronously reported")
    heard = Heard()
    with pytest.raises(RuntimeError, match="launch failure"):
        bigrunner.run("rocm-tuning", companions=[failing, heard], steps=1)
    event = heard.events["gpu-failure"]
    assert "start again with --set data.micro_batch=2," in event.message
    assert (event.level, event.facts["micro_batch"], event.facts["next_micro_batch"]) == ("error", 4, None)


def test_the_next_process_halves_the_micro_batch_where_that_is_wanted(
    bigrunner: Runner, gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bigrun_rocm.plugin.MICRO_BATCH_CAP", 2)
    heard, directory = Heard(), tmp_path / "run"
    options: dict[str, Any] = {"steps": 1, "directory": directory, "hardware": {"on_oom": "halve"}}
    with pytest.raises(RuntimeError, match="hipErrorLaunchFailure"):
        bigrunner.run("rocm-tuning", companions=[Failing("hipErrorLaunchFailure"), heard], **options)
    assert "continues from the newest checkpoint with micro-batches of 2." in heard.events["gpu-failure"].message
    again = bigrunner.run("rocm-tuning", **options)
    again.assert_finished()
    assert again.run is not None
    assert (again.run.config.data.micro_batch, again.run.accumulate) == (2, 2)


def test_a_micro_batch_that_never_failed_so_stays(bigrunner: Runner, gpu: FakeGpu, tmp_path: Path) -> None:
    """Hangs of the firmware, a few in two weeks, would else make it smaller each time and for good."""
    heard, directory = Heard(), tmp_path / "run"
    options: dict[str, Any] = {"steps": 1, "directory": directory, "hardware": {"on_oom": "halve"}}
    with pytest.raises(RuntimeError, match="hipErrorLaunchFailure"):
        bigrunner.run("rocm-tuning", companions=[Failing("hipErrorLaunchFailure"), heard], **options)
    assert heard.events["gpu-failure"].facts["next_micro_batch"] is None
    assert not (directory / "memory.json").exists()


def test_values_that_nobody_has_set(bigrunner: Runner, gpu: FakeGpu) -> None:
    result = bigrunner.run("rocm-tuning", steps=1, data={"effective_batch": 8, "micro_batch": None})
    result.assert_finished()
    assert result.run is not None
    config = result.run.config
    assert (config.data.micro_batch, config.data.workers, config.hardware.pin_memory) == (8, 0, True)
    why = {choice.path: choice.why for choice in config.choices}
    assert "of 61.9 GiB, by a closed form" in why["data.micro_batch"]
    assert "data.workers" not in why  # set, as everything in the tests' tiny preset


def test_the_stand_ins_are_what_torch_has() -> None:
    """Names and parameters of the functions that are replaced here."""
    import inspect

    from rocm.fakes import FakeTunableOp

    names = ["enable", "tuning_enable", "set_filename", "is_enabled", "tuning_is_enabled", "get_filename", "read_file",
             "set_numerical_check_tolerances"]  # fmt: skip
    for name in names:
        real = inspect.signature(getattr(torch.cuda.tunable, name)).parameters
        fake = inspect.signature(getattr(FakeTunableOp(), name)).parameters
        assert [(p.name, p.default) for p in real.values()] == [(p.name, p.default) for p in fake.values()], name
    assert list(inspect.signature(torch.backends.cuda.preferred_blas_library).parameters) == ["backend"]
    assert list(inspect.signature(FakeBlas().__call__).parameters) == ["backend"]
    assert "fraction" in inspect.signature(torch.cuda.memory.set_per_process_memory_fraction).parameters
    assert read_results(RESULTS).validators == VALIDATORS
