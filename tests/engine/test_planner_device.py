"""A plan for a GPU that is not here: which one, what plugins choose for it, and how fast it was measured to be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import pytest

from bigrun import hookimpl
from bigrun.activation import activate
from bigrun.config import Document
from bigrun.devices import TorchBuild
from bigrun.devices.host import read_host
from bigrun.errors import UsageError
from bigrun.planner.closed_form import StepMemory, tokens_of
from bigrun.planner.device import ARCHS, backend_of, imagined, with_ram
from bigrun.planner.gpus import GPUS, find_gpu
from bigrun.planner.measured import Speed, read_speed, tuned_speed
from bigrun.planner.predict import predict
from bigrun.planner.rehearsal import rehearse
from bigrun.planner.report import lines
from bigrun.testing.devices import DEVICES, device
from bigrun.testing.runner import Runner
from bigrun_cuda.defaults import Fit, choose_defaults, device_bytes, fit

HOST = read_host()


def document(plugins: dict[str, Any] | None = None, **tables: Any) -> Document:
    data = {"effective_batch": 16, "workers": None, "micro_batch": None} | tables.pop("data", {})
    return Runner(Path()).document(plugins or {}, data=data, **tables)


# -- which device ---------------------------------------------------------------------------------------------


def test_architectures_are_those_of_listed_gpus_and_of_recorded_devices() -> None:
    assert {gpu.name for gpu in GPUS} == set(ARCHS)
    for facts in DEVICES.values():
        gpu = find_gpu(facts.name)
        if gpu is not None:
            made = imagined(gpu, facts.name, backend_of(gpu, "auto"), facts.total_bytes, facts.host)
            assert (made.backend, made.arch, made.is_unified) == (facts.backend, facts.arch, facts.is_unified)
            assert made.torch.backend == made.backend


@pytest.mark.parametrize(
    ("gpu", "wish", "torch", "backend"),
    [
        ("RTX 4090", "auto", "rocm", "cuda"),
        ("MI300X", "cuda", "cuda", "rocm"),
        ("MI300X", "cpu", "cuda", "cpu"),
        (None, "rocm", "cuda", "rocm"),
        (None, "auto", "rocm", "rocm"),
        (None, "auto", "cpu", "cuda"),
        (None, "cuda", "rocm", "cuda"),
    ],
)
def test_the_maker_of_the_gpu_decides_then_the_option_then_torch(
    gpu: str | None, wish: str, torch: str, backend: str
) -> None:
    build = TorchBuild("2.13", cuda="13" if torch == "cuda" else None, hip="7.1" if torch == "rocm" else None)
    assert backend_of(None if gpu is None else find_gpu(gpu), wish, build) == backend


# -- what plugins choose for it -------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_is_planned_is_what_the_run_would_choose_on_that_gpu() -> None:
    tuned = document({"cuda-tuning": {}}, data={"effective_batch": 1})
    plan = predict(tuned, gpu="RTX 4090")
    gpu = find_gpu("RTX 4090")
    assert gpu is not None
    facts = imagined(gpu, "RTX 4090", "cuda", gpu.memory_bytes, HOST)
    expected = choose_defaults(facts, activate(tuned)[0])
    chosen = {choice.path: choice.value for choice in plan.choices}
    assert chosen == {path: value for path, (value, _) in expected.items()}
    assert (plan.micro_batch, plan.activation_checkpointing) == (1, "none")
    said = [line for line in lines(plan) if line.startswith("chosen ")]
    assert len(said) == len(chosen)
    assert any("GiB expected of" in line for line in said)
    assert plan.notes == ()


class Tight:
    """A plugin that finds room for four images on one kind of GPU."""

    @hookimpl
    def hardware_defaults(self, run: Any) -> dict[str, Any]:
        if run.facts.backend != "rocm":
            return {}
        return {
            "data.micro_batch": (4, f"{run.facts.arch}"),
            "hardware.activation_checkpointing": ("full", "tight"),
            "data.workers": (3, "cores"),
        }


@pytest.fixture
def own_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.mark.slow
@pytest.mark.usefixtures("own_plugins")
def test_the_users_own_values_win_and_another_gpu_is_none_of_its_business() -> None:
    plugins: dict[str, Any] = {"test_planner_device:Tight": {}}
    found = rehearse(document(plugins), "cuda", device("gfx942"))
    assert (found.config.data.micro_batch, found.accumulate) == (4, 4)
    assert found.config.hardware.activation_checkpointing == "full"
    assert ("data.workers", 3) in [(choice.path, choice.value) for choice in found.config.choices]
    mine = rehearse(document(plugins, data={"micro_batch": 8}), "cuda", device("gfx942")).config
    assert (mine.data.micro_batch, mine.hardware.activation_checkpointing) == (8, "full")
    assert rehearse(document(plugins), "cuda", device("rtx4090")).accumulate == 1


@pytest.mark.usefixtures("own_plugins")
def test_without_the_memory_nobody_is_asked_and_it_is_said() -> None:
    plan = predict(document({"test_planner_device:Tight": {}}), device="rocm", gpu="8060S")
    assert plan.micro_batch == 16
    assert plan.notes[0].startswith("test_planner_device:Tight may choose micro-batch")


# -- what the allocator wastes there --------------------------------------------------------------------------


GROWING, FIXED = "expandable_segments:True", "garbage_collection_threshold:0.8"


@pytest.mark.parametrize(
    ("plugins", "environment", "gpu", "factor"),
    [
        ({}, {}, "RTX 4090", 1.25),
        ({}, {"PYTORCH_CUDA_ALLOC_CONF": f"{FIXED},{GROWING}"}, "RTX 4090", 1.08),
        pytest.param({}, {"PYTORCH_ALLOC_CONF": GROWING}, "RTX 4090", 1.08, marks=pytest.mark.slow),
        pytest.param({}, {"PYTORCH_CUDA_ALLOC_CONF": GROWING}, "MI300X", 1.25, marks=pytest.mark.slow),
        ({"cuda-tuning": {}}, {}, "RTX 4090", 1.08),
        pytest.param({"cuda-tuning": {}}, {"PYTORCH_CUDA_ALLOC_CONF": FIXED}, "RTX 4090", 1.25, marks=pytest.mark.slow),
        pytest.param({"cuda-tuning": {"expandable_segments": False}}, {}, "RTX 4090", 1.25, marks=pytest.mark.slow),
        pytest.param({"cuda-tuning": {}}, {}, "MI300X", 1.25, marks=pytest.mark.slow),
    ],
)
def test_segments_grow_where_a_plugin_or_the_environment_asks_for_it(
    monkeypatch: pytest.MonkeyPatch, plugins: dict[str, Any], environment: dict[str, str], gpu: str, factor: float
) -> None:
    for name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    known = find_gpu(gpu)
    found = rehearse(document(plugins), "cuda", imagined(known, gpu, backend_of(known, "auto"), None, HOST))
    backend = backend_of(known, "auto")
    assert found.need_bytes(backend) == round(factor * found.memory.peak_bytes) + round(0.7 * 2**30)


def test_what_a_plugin_chooses_counts_what_the_allocator_wastes() -> None:
    config, _ = activate(document(data={"micro_batch": None}))
    memory, tokens = StepMemory(config), tokens_of(config)
    limit = device_bytes(memory, 16, "none", grows=True)
    assert fit(memory, limit, tokens, grows=True) == Fit(16, "none", limit)
    fixed = fit(memory, limit, tokens, grows=False)
    assert (fixed.micro_batch, fixed.mode) != (16, "none")
    assert fixed.bytes == device_bytes(memory, fixed.micro_batch, fixed.mode, grows=False)


def test_a_plan_says_by_which_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
    plan = predict(document({"cuda-tuning": {}}))
    assert any("the peak x 1.08 + 0.70 GiB" in line for line in lines(plan))
    assert plan.need_bytes == round(1.08 * plan.memory.peak_bytes) + round(0.7 * 2**30)
    assert any("the peak x 1.25 + 0.70 GiB" in line for line in lines(attrs.evolve(plan, segments_grow=False)))


# -- how fast it is -------------------------------------------------------------------------------------------


def tuned(folder: Path, **changes: Any) -> Path:
    facts = {
        "source": "test", "effective_batch": 16, "trials": [], "images_per_second": 200.0,
        "device": {"name": "NVIDIA GeForce RTX 4090", "backend": "cuda"},
    } | changes  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trials.json").write_text(json.dumps(facts))
    return folder


def test_what_was_tuned_here_is_used_for_the_same_preset_on_the_same_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config, _ = activate(document())
    assert tuned_speed(config, "cuda", None, 1e9) is None
    tuned(Path("runs/test-tune"))
    found = tuned_speed(config, "cuda", "rtx 4090", 1e9)
    assert found is not None
    assert found.images_per_second(1e9) == pytest.approx(200)
    assert tuned_speed(config, "cuda", None, 1e9) == found
    assert tuned_speed(config, "cuda", "RTX 5090", 1e9) is None
    assert tuned_speed(config, "rocm", None, 1e9) is None
    for other in ({"source": "other"}, {"effective_batch": 8}, {"images_per_second": None}):
        tuned(Path("runs/test-tune"), **other)
        assert tuned_speed(config, "cuda", None, 1e9) is None


def test_a_cpus_speed_says_nothing_of_a_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config, _ = activate(document())
    tuned(Path("runs/test-tune"), device={"name": "a processor", "backend": "cpu"})
    assert tuned_speed(config, "cuda", None, 1e9) is None
    assert tuned_speed(config, "cpu", None, 1e9) is not None


def test_a_file_that_says_its_work_tells_of_another_preset_too(tmp_path: Path) -> None:
    found = read_speed(tuned(tmp_path, flops_per_image=2e9), 1e9)
    assert found.images_per_second(1e9) == pytest.approx(400)


def test_products_of_matrices_are_a_bound_and_no_speed(tmp_path: Path) -> None:
    rows = [
        {"name": "device", "facts": {"device": {"name": "Radeon 8060S Graphics"}}},
        {"name": "bf16 speed", "facts": {"measured": 33.0, "peak": 59.4}},
    ]
    path = tmp_path / "doctor.json"
    path.write_text(json.dumps({"rows": rows}))
    found = read_speed(path, 1e9)
    assert found == Speed(str(path), "Radeon 8060S Graphics", product_tflops=33.0)
    plan = attrs.evolve(predict(document(), gpu="8060S", device="rocm"), speed=found)
    assert plan.images_per_second is None
    (line,) = [line for line in lines(plan) if line.startswith("speed ")]
    assert "at 33 TFLOP/s, that of large matrix products on Radeon 8060S Graphics" in line
    assert "which no run reaches" in line


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"rows": []}', '{"trials": [], "images_per_second": null}'])
def test_what_measured_nothing_is_refused(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "file.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match="--measured"):
        read_speed(path, 1e9)


def test_a_stated_speed_wins(tmp_path: Path) -> None:
    plan = predict(document(), tflops=2.0, measured=lambda flops: read_speed(tuned(tmp_path), flops))
    assert plan.flops_per_image is not None
    assert plan.images_per_second == pytest.approx(2e12 / plan.flops_per_image)
    measured = attrs.evolve(plan, tflops=None)
    assert measured.images_per_second == pytest.approx(200)
    assert any("as measured on NVIDIA GeForce RTX 4090" in line for line in lines(measured))


def test_another_machines_memory() -> None:
    assert with_ram(HOST, None) == HOST
    assert with_ram(HOST, 2**36).ram_total_bytes == 2**36
