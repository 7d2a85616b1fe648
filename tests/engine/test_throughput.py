"""Throughput and MFU: images once, model FLOPs of just those steps, and no peak that nobody knows."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from torch import nn

from bigrun import hookimpl
from bigrun.compute import Compute, count_passes, human_flops, pass_flops
from bigrun.device_speed import Peak, known_peak, untuned
from bigrun.model.vit import VisionTransformer
from bigrun.objective.dino import DinoObjective
from bigrun.planner.flops import forward_flops, pair_flops
from bigrun.planner.gpus import find_gpu, gpu_of
from bigrun.sections import Hardware, Model, Views
from bigrun.testing.devices import DEVICES
from bigrun.testing.runner import Runner, RunResult

BF16 = {"precision": "bf16"}


class Clock:
    """Each step takes a second, or what `seconds` says; nothing else takes time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: Mapping[int, float] | None = None) -> None:
        self.now = 0.0
        self.seconds = seconds or {}
        self.rows: list[dict[str, float]] = []
        monkeypatch.setattr("bigrun.throughput.perf_counter", lambda: self.now)

    @hookimpl
    def after_step(self, step: int) -> None:
        self.now += self.seconds.get(step, 1.0)

    @hookimpl
    def on_metrics(self, metrics: dict[str, float]) -> None:
        self.rows.append(dict(metrics))

    @property
    def flops(self) -> list[float]:
        """Of each row, per second."""
        return [1e12 * row["model_tflops_per_second"] for row in self.rows]


def flops_of(result: RunResult, pair_px: tuple[int, int] = (32, 16), **options: Any) -> float:
    """Of a step of the tiny preset: 4 images."""
    assert result.run is not None
    config = result.run.config
    options = {"kept_fraction": 1 - config.model.drop_path_fraction} | options
    return 4 * pair_flops(config.model, config.views, pair_px, **options)


# -- counting -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("local_crops", [2, 6])
def test_an_image_counts_once_however_it_is_cut_up(
    bigrunner: Runner, monkeypatch: pytest.MonkeyPatch, accumulate: int, local_crops: int
) -> None:
    clock = Clock(monkeypatch)
    views = {"local_crops": local_crops}
    run = {"log_every_steps": 2, "max_steps": 4}
    result = bigrunner.run(accumulate=accumulate, companions=[clock], views=views, run=run)
    result.assert_finished()
    assert result.run is not None
    assert result.run.accumulate == accumulate
    assert [row["images_per_second"] for row in clock.rows] == [4.0, 4.0]  # a step of 4 images a second
    assert [row["steps_per_second"] for row in clock.rows] == [1.0, 1.0]
    assert clock.flops == pytest.approx([flops_of(result)] * 2)


class Spoil:
    @hookimpl
    def loss_terms(self, step: int, outputs: Any) -> dict[str, Any]:
        return {"spoiled": outputs.global_features.cls.sum() * (float("nan") if step == 2 else 0.0)}


def test_a_skipped_step_takes_time_and_does_nothing(bigrunner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    run = {"log_every_steps": 2, "max_steps": 4}
    result = bigrunner.run(companions=[clock, Spoil()], run=run)
    result.assert_finished()
    assert [row["images_per_second"] for row in clock.rows] == [2.0, 4.0]
    assert clock.flops == pytest.approx([flops_of(result) / 2, flops_of(result)])


def test_each_step_counts_with_its_own_sizes_and_time(bigrunner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, {2: 3.0})
    views = {"sizes_px": [[32, 16], [48, 16]], "global_size_px": None, "local_size_px": None}
    result = bigrunner.run(companions=[clock], steps=6, views=views)
    result.assert_finished()
    assert result.run is not None
    pairs = [result.run.views.sizes_px(step) for step in range(1, 7)]
    assert set(pairs) == {(32, 16), (48, 16)}
    seconds = [3.0 if step == 2 else 1.0 for step in range(1, 7)]
    assert clock.flops == pytest.approx(
        [flops_of(result, pair) / time for pair, time in zip(pairs, seconds, strict=True)]
    )


def test_a_frozen_network_counts_in_the_steps_in_which_it_is_called(
    bigrunner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gram anchoring begins in step 3, with crops of 64 pixels; the teacher that it takes before costs nothing."""
    clock = Clock(monkeypatch)
    gram = {"snapshot_step": 1, "start_step": 3, "ramp_steps": 1, "crop_factor": 2.0}
    for accumulate in (1, 2):
        clock.rows.clear()
        result = bigrunner.run("gram-anchoring", config=gram, companions=[clock], steps=4, accumulate=accumulate)
        result.assert_finished()
        assert result.run is not None
        plain, more = flops_of(result), 4 * 2 * forward_flops(result.run.config.model, 64)
        assert clock.flops == pytest.approx([plain, plain, plain + more, plain + more])


class Outside:
    """A frozen network of another architecture, called between steps."""

    def __init__(self, when: str) -> None:
        self.when = when

    @hookimpl
    def frozen_modules(self) -> dict[str, torch.nn.Module]:
        self.backbone = VisionTransformer(Model(width=16, depth=1, heads=1, ffn_hidden=8, patch_size_px=8)).eval()
        return {"outside": self.backbone}

    def _look(self) -> None:
        with torch.no_grad():
            self.backbone(torch.zeros(1, 3, 16, 16))

    @hookimpl
    def loss_terms(self) -> dict[str, Any]:
        if self.when == "in":
            self._look()
        return {}

    @hookimpl
    def after_step(self) -> None:
        if self.when == "after":
            self._look()


def test_a_frozen_network_counts_by_its_own_architecture_and_only_in_steps(
    bigrunner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    after = bigrunner.run(companions=[clock, Outside("after")], run={"log_every_steps": 3, "max_steps": 3})
    inside = bigrunner.run(companions=[clock, Outside("in")], run={"log_every_steps": 3, "max_steps": 3})
    after.assert_finished()
    inside.assert_finished()
    tokens, patches = 1 + 4 + 4, 4
    own = 2 * (4 * 16 * 16 + 2 * 16 * 8) * tokens + 4 * tokens**2 * 16 + 2 * 3 * 64 * 16 * patches
    plain, more = clock.flops
    assert plain == pytest.approx(flops_of(after))
    assert more - plain == pytest.approx(own, rel=1e-6)


def test_every_way_to_call_a_frozen_network_counts() -> None:
    model = Model(width=32, depth=2, heads=2, ffn_hidden=64, patch_size_px=8, drop_path_fraction=0.0)
    network, found = VisionTransformer(model).eval(), list[float]()
    count_passes(nn.ModuleDict({"teacher": network}), found.append)
    large, small = torch.randn(2, 3, 32, 32), torch.randn(4, 3, 16, 16)
    network(large)
    network(crops=large)
    network.forward_list([large, small])
    each = [pass_flops(network, *crops.shape) for crops in (large, small)]
    assert found == [each[0], each[0], *each]


def test_steps_in_which_the_backbone_is_frozen_have_no_backward_pass() -> None:
    model, views = Model(drop_path_fraction=0.0), Views(local_crops=0)
    compute = Compute(model, views, lambda step: (224, 96), frozen_steps=10)
    near = 2 * forward_flops(model, 224)
    assert [compute.flops(step) for step in (1, 10, 11)] == [2 * near, 2 * near, 4 * near]


class Other:
    """A plugin that brings an objective, whatever that computes."""

    @hookimpl
    def build_objective(self, run: Any) -> Any:
        return DinoObjective(run.config, run.schedules)


def test_the_objective_of_a_plugin_computes_what_it_wants(bigrunner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    result = bigrunner.run(f"{__name__}:Other", companions=[clock], hardware=BF16 | {"peak_tflops": 1.0})
    result.assert_finished()
    assert all(row.keys().isdisjoint({"model_tflops_per_second", "mfu_fraction"}) for row in clock.rows)
    assert all(row["images_per_second"] == 4.0 for row in clock.rows)
    assert compute_line(result) == f"not known of the objective of plugin {__name__}:Other: MFU n/a"


# -- peaks ----------------------------------------------------------------------------------------------------


def test_a_share_of_the_peak_is_that_of_all_processes() -> None:
    compute = Compute(Model(), Views(), lambda step: (224, 96), processes=2, peak=Peak(100.0, "x"))
    assert compute.rates(50e12) == {"model_tflops_per_second": 50.0, "mfu_fraction": 0.25}
    both = attrs.evolve(compute, measured_tflops=80.0)
    assert both.rates(50e12)["mfu_of_measured_fraction"] == 50 / 160
    unknown = attrs.evolve(compute, peak=None)
    assert unknown.rates(50e12) == {"model_tflops_per_second": 50.0}


@pytest.mark.parametrize(
    ("name", "tflops"),
    [("gfx1151-a", 59.4), ("gfx1151-b", 59.4), ("gfx1151-c", 59.4), ("gfx1100", None), ("gfx942", 1307.4),
     ("rtx3090", 71.0), ("rtx4090", 165.2), ("rtx5090", 209.5), ("a100", 312.0), ("h100", 989.0), ("h200", 989.0),
     ("cpu", None)],
)  # fmt: skip
def test_peaks_of_devices_recorded(name: str, tflops: float | None) -> None:
    facts = DEVICES[name]
    gpu = gpu_of(facts)
    assert (None if gpu is None else gpu.peak_tflops) == tflops
    peak = known_peak(Hardware(), facts)
    assert (None if peak is None else peak.tflops) == tflops
    stated = Hardware(peak_tflops=12.5)
    assert known_peak(stated, facts) == Peak(12.5, "hardware.peak_tflops")
    assert known_peak(Hardware(precision="fp32"), facts) is None


def test_a_smaller_strix_halo_has_another_peak_whatever_its_name() -> None:
    smaller = attrs.evolve(DEVICES["gfx1151-a"], multiprocessors=16)
    assert gpu_of(smaller) is None


@pytest.mark.parametrize(
    "name",
    ["NVIDIA A100-SXM4-40GB MIG 1g.5gb", "NVIDIA GeForce RTX 3090 Ti", "NVIDIA GeForce RTX 4090 Laptop GPU",
     "NVIDIA GeForce RTX 4090 D", "NVIDIA H20", "NVIDIA GeForce RTX 4080"],
)  # fmt: skip
def test_a_gpu_that_is_not_listed_has_no_peak(name: str) -> None:
    assert find_gpu(name) is None
    assert gpu_of(attrs.evolve(DEVICES["rtx4090"], name=name)) is None


def test_the_two_kinds_of_h200_differ() -> None:
    known = [find_gpu(name) for name in ("NVIDIA H200", "NVIDIA H200 NVL")]
    assert [gpu.peak_tflops for gpu in known if gpu] == [989.0, 835.0]


# -- in a run -------------------------------------------------------------------------------------------------


def compute_line(result: RunResult) -> str:
    assert result.run is not None
    (line,) = (line for line in result.run.header if line.startswith("compute "))
    return line.removeprefix("compute      ")


def test_without_a_peak_there_is_no_share_of_it(bigrunner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    result = bigrunner.run(companions=[clock], hardware=BF16)
    result.assert_finished()
    assert all(row["model_tflops_per_second"] > 0 for row in clock.rows)
    assert all(row.keys().isdisjoint({"mfu_fraction", "mfu_of_measured_fraction"}) for row in clock.rows)
    image = human_flops(flops_of(result) / 4)
    assert compute_line(result) == f"{image} an image; peak unknown (hardware.peak_tflops states it): MFU n/a"


def test_a_stated_peak_is_taken(bigrunner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    result = bigrunner.run(companions=[clock], hardware=BF16 | {"peak_tflops": 0.5})
    result.assert_finished()
    assert [row["mfu_fraction"] for row in clock.rows] == [2 * row["model_tflops_per_second"] for row in clock.rows]
    assert compute_line(result).endswith("an image; peak 0.5 TFLOP/s (hardware.peak_tflops)")


def test_fp32_has_no_share_of_the_peak_of_bf16(bigrunner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    result = bigrunner.run(companions=[clock])
    assert all("model_tflops_per_second" in row and "mfu_fraction" not in row for row in clock.rows)
    assert compute_line(result).endswith("an image; no peak is known of fp32: MFU n/a")
    refused = bigrunner.run(hardware={"peak_tflops": 1.0})
    assert "hardware.peak_tflops" in str(refused.error)
    assert "no peak is known" in str(refused.error)


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_peak_is_above_zero(bigrunner: Runner, value: float) -> None:
    result = bigrunner.run(hardware=BF16 | {"peak_tflops": value})
    assert f"hardware.peak_tflops: expected more than 0, up to 1000000, got {value}" in str(result.error)


class PretendGpu:
    """A GPU that nobody knows, whose work the processor does."""

    def __init__(self) -> None:
        self.states: list[Any] = []

    @hookimpl
    def build_loader(self, run: Any) -> None:
        run.facts = attrs.evolve(run.facts, backend="cuda", name="NVIDIA Unheard-Of")
        self.states.append(generators())

    @hookimpl(tryfirst=True)
    def header_lines(self) -> list[str]:
        self.states.append(generators())
        return []


def generators() -> list[Any]:
    return [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()]  # type: ignore[index, union-attr]


def test_what_a_gpu_can_do_is_measured_and_changes_nothing(bigrunner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = bigrunner.run(hardware=BF16)
    clock, gpu = Clock(monkeypatch), PretendGpu()
    result = bigrunner.run(companions=[clock, gpu], hardware=BF16)
    result.assert_finished()
    before, after = gpu.states
    assert before == after
    assert result.losses == plain.losses
    assert compute_line(result).partition("peak unknown, measured ")[2]
    for row in clock.rows:
        assert "mfu_fraction" not in row
        assert row["mfu_of_measured_fraction"] > 0
    shares = {row["model_tflops_per_second"] / row["mfu_of_measured_fraction"] for row in clock.rows}
    assert len({round(share, 9) for share in shares}) == 1


def test_a_gpu_that_cannot_be_measured_is_trained_on(bigrunner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 256.00 MiB")

    monkeypatch.setattr("bigrun.doctor.speed.tflops", fail)
    clock = Clock(monkeypatch)
    result = bigrunner.run(companions=[clock, PretendGpu()], hardware=BF16)
    result.assert_finished()
    (event,) = (event for event in result.events if event.kind == "speed-unmeasured")
    assert event.level == "warning"
    assert event.message.startswith("the speed of NVIDIA Unheard-Of could not be measured: CUDA out of memory")
    assert all("mfu_of_measured_fraction" not in row for row in clock.rows)


@pytest.mark.parametrize("was_on", [True, False])
def test_tunableop_searches_nothing_for_what_is_measured(monkeypatch: pytest.MonkeyPatch, was_on: bool) -> None:
    from torch.cuda import tunable

    now = [was_on]
    monkeypatch.setattr(tunable, "tuning_is_enabled", lambda: now[-1])
    monkeypatch.setattr(tunable, "tuning_enable", now.append)
    with untuned(torch.device("cuda")):
        assert not now[-1]
    with pytest.raises(ValueError, match="none"), untuned(torch.device("cuda")):
        raise ValueError("none")
    assert now[-1] is was_on


def test_a_processor_is_not_measured(bigrunner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bigrun.doctor.speed.tflops", lambda *_: pytest.fail("measured"))
    bigrunner.run(hardware=BF16).assert_finished()


@pytest.mark.parametrize(
    ("flops", "text"), [(1.605e12, "1.6 TFLOP"), (2.5e11, "0.25 TFLOP"), (5.83e10, "58.3 GFLOP"), (6e7, "0.06 GFLOP")]
)
def test_operations_are_told_in_three_digits(flops: float, text: str) -> None:
    assert human_flops(flops) == text
