"""Predicted memory beside that of a real run, to the last few bytes, and what it is made of."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from bigrun import hookimpl
from bigrun.config import Document, read_preset
from bigrun.errors import UsageError
from bigrun.model.vit import VisionTransformer
from bigrun.objective.dino import DinoObjective
from bigrun.objective.targets import rows_at_once
from bigrun.planner.flops import forward_flops
from bigrun.planner.imitation import imitating
from bigrun.planner.memory import ACTIVATIONS, GRADIENTS, INPUTS, OPTIMIZER, TEACHER, WEIGHTS, Memory, frozen_category
from bigrun.planner.rehearsal import Rehearsal, rehearse
from bigrun.session import run_training
from bigrun.testing.runner import Runner, SyntheticImages

GRAM = {"snapshot_step": 1, "start_step": 2, "ramp_steps": 1}
TOLERANCE = 0.03


class Over(Exception):
    """The last step is taken: what saves the state is not part of it."""


class SyntheticRun:
    """Brings images, and ends the run before its state is copied for the last checkpoint."""

    @hookimpl(tryfirst=True)
    def build_dataset(self) -> Any:
        return SyntheticImages()

    @hookimpl
    def after_step(self, run: Any, step: int) -> None:
        if step == run.max_steps:
            raise Over


def real_peak(document: Document, directory: Path) -> int:
    """What torch's CPU allocator had given out at most, by the profiler's record of every allocation."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler, pytest.raises(Over):
        run_training(document, directory, companions={"synthetic": SyntheticRun()})
    now = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


def assert_as_real(document: Document, directory: Path) -> Rehearsal:
    found, real = rehearse(document, "cpu"), real_peak(document, directory)
    assert found.refused == {}
    assert found.memory.peak_bytes == pytest.approx(real, rel=TOLERANCE)
    return found


def tiny(plugins: dict[str, Any] | None = None, **options: Any) -> Document:
    tables = {
        "model": {"width": 64, "heads": 2, "ffn_hidden": 256, "depth": 2, "drop_path_fraction": 0.3},
        "hardware": {"device": "cpu", "precision": "bf16", "threads": 1},
    }
    for name, table in options.pop("tables", {}).items():
        tables[name] = tables.get(name, {}) | table
    return Runner(Path()).document(plugins or {}, **options, **tables)


SMALL = {
    "fp32, queue": pytest.param(
        tiny(tables={"hardware": {"precision": "fp32"}, "objective": {"queue_steps": 1}}), marks=pytest.mark.slow
    ),
    "full checkpointing, accumulation": pytest.param(
        tiny(accumulate=4, tables={"hardware": {"activation_checkpointing": "full"}, "model": {"depth": 3}}),
        marks=pytest.mark.slow,
    ),
    "selective checkpointing, Gram": tiny(
        {"gram-anchoring": GRAM | {"crop_factor": 2.0}},
        accumulate=2,
        tables={"hardware": {"activation_checkpointing": "selective"}},
    ),
}


@pytest.fixture(scope="module")
def plain() -> Memory:
    return rehearse(tiny(), "cpu").memory


@pytest.mark.parametrize("document", SMALL.values(), ids=SMALL)
def test_a_tiny_run_takes_what_is_predicted(tmp_path: Path, document: Document) -> None:
    assert_as_real(document, tmp_path / "run")


def sized(preset: str, micro: int, accumulate: int = 1, *sets: str, mode: str = "none", gram: bool = False) -> Document:
    """A shipped preset in a batch that a CPU can train, for three steps and with its first plugin at most."""
    plugins = list(read_preset(preset).tables["plugins"])
    overrides = [
        *("run.max_steps=3", "run.checkpoint_every_steps=100", "run.log_every_steps=1", "data.workers=0"),
        *(f"data.effective_batch={micro * accumulate}", f"data.micro_batch={micro}"),
        *("hardware.device=cpu", "hardware.threads=1", f"hardware.activation_checkpointing={mode}", *sets),
    ]
    document = read_preset(preset, overrides, no_plugins=plugins)
    document.tables["plugins"].update({"gram-anchoring": GRAM | {"crop_factor": 2.0}} if gram else {})
    return document


SLOW = {
    "ViT-Ti": sized("vit_tiny", 2),
    "ViT-Ti, full checkpointing, accumulation": sized("vit_tiny", 2, 2, mode="full"),
    "ViT-Ti, Gram": sized("vit_tiny", 2, 2, gram=True),
    "ViT-S, full checkpointing, many prototypes": sized(
        "vit_small", 2, 1, "objective.prototypes=32768", "objective.queue_steps=128", mode="full"
    ),
    "ViT-S, selective checkpointing, Gram": sized("vit_small", 2, mode="selective", gram=True),
    "ViT-B, 4 local crops": sized("vit_small", 2, 1, "model.architecture=vit_base", "views.local_crops=4"),
}


@pytest.mark.slow
@pytest.mark.parametrize("document", SLOW.values(), ids=SLOW)
def test_a_run_takes_what_is_predicted(tmp_path: Path, document: Document) -> None:
    assert_as_real(document, tmp_path / "run")


def test_what_stays_is_counted_exactly() -> None:
    """Bytes per trained parameter: 4 of the weight, 4 of the gradient, 8 of AdamW's moments, 4 of the teacher's."""
    found = rehearse(tiny({"gram-anchoring": GRAM}, accumulate=2), "cpu")
    memory, parameters = found.memory.by_category, sum(found.parameters.values()) // 2
    backbone = found.parameters["backbone"]
    assert found.parameters["not trained (teacher)"] == parameters
    assert sum(memory.values()) == found.memory.peak_bytes
    buffers = 4 * 4 * 8  # the periods of rotary positions
    assert memory[GRADIENTS] == pytest.approx(4 * parameters, rel=0.01)
    assert memory[OPTIMIZER] == pytest.approx(8 * parameters, rel=0.01)
    assert memory[WEIGHTS] - 4 * parameters == pytest.approx(0, abs=50 * buffers)
    assert memory[TEACHER] - 4 * parameters == pytest.approx(0, abs=50 * buffers)
    assert memory[frozen_category("gram_teacher")] - 4 * backbone == pytest.approx(0, abs=50 * buffers)
    assert memory[INPUTS] == 4 * 4 * 3 * (2 * 32**2 + 2 * 16**2)  # of the whole effective batch, fp32


@pytest.mark.slow
def test_for_a_gpu_no_attention_matrix_is_kept() -> None:
    """On a CPU short sequences are multiplied out: a matrix of N x N for each crop and head is kept, and without it a
    copy of the queries, keys and values in one. Allocations are rounded up to 512 bytes."""
    views = {"global_size_px": 128, "local_crops": 0, "local_size_px": None}
    document = tiny(tables={"views": views, "model": {"drop_path_fraction": 0.0}})
    cpu, cuda = rehearse(document, "cpu").memory.by_category, rehearse(document, "cuda").memory.by_category
    assert all(size % 512 == 0 for size in cuda.values())
    blocks, crops, heads, tokens, width = 2, 8, 2, 16**2 + 2, 64
    less = blocks * crops * 2 * (heads * tokens**2 - 2 * tokens * width)
    assert cpu[ACTIVATIONS] - cuda[ACTIVATIONS] == pytest.approx(less, rel=0.1)


def test_a_gpu_needs_more_than_its_allocator_says() -> None:
    memory = Memory(10 * 2**30, {})
    outside = round(0.7 * 2**30)
    assert memory.need_bytes("cuda") == memory.need_bytes("rocm") == round(12.5 * 2**30) + outside
    assert memory.need_bytes("cuda", grows=True) == round(10.8 * 2**30) + outside
    assert memory.need_bytes("rocm", grows=True) == round(12.5 * 2**30) + outside  # they would not
    assert memory.need_bytes("cpu") == memory.need_bytes("cpu", grows=True) == memory.peak_bytes


def test_the_process_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def look() -> list[object]:
        return [torch.get_rng_state().tolist(), torch.get_num_threads(), dict(os.environ), list(tmp_path.iterdir())]

    document, before = tiny(tables={"hardware": {"threads": 2}}), look()
    rehearse(document, "cuda")
    assert look() == before
    assert not isinstance(torch.empty(1), torch._subclasses.FakeTensor)


class Refuses:
    """Looks at a value in the middle of a step."""

    @hookimpl
    def loss_terms(self, outputs: Any) -> dict[str, Any]:
        float(outputs.global_features.cls.sum())
        return {}


class LooksAtLosses:
    """An objective that needs a value to go on."""

    @hookimpl
    def build_objective(self, run: Any) -> Any:
        class Curious(DinoObjective):
            def loss_terms(self, outputs: Any) -> dict[str, torch.Tensor]:
                terms = super().loss_terms(outputs)
                return terms if float(sum(terms.values())) > 0 else {}

        return Curious(run.config, run.schedules)


class Keeps:
    """Keeps a tensor when it is rehearsed, and observes nothing."""

    @hookimpl(optionalhook=True)
    def rehearse(self, run: Any) -> None:
        self.kept = torch.empty(2**22, dtype=torch.uint8)


class Asks:
    """Another network than the student's."""

    @hookimpl
    def frozen_modules(self, run: Any) -> dict[str, Any]:
        sizes = {"width": 32, "heads": 2, "ffn_hidden": 64, "depth": 3}
        return {"other": VisionTransformer(attrs.evolve(run.config.model, **sizes))}

    @hookimpl
    def before_step(self, run: Any) -> None:
        run.frozen["other"](torch.empty(5, 3, 64, 64))


@pytest.fixture
def own_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.mark.slow
@pytest.mark.usefixtures("own_plugins")
def test_a_plugin_that_needs_values_is_named_and_left_out(plain: Memory) -> None:
    found = rehearse(tiny({"test_planner_memory:Refuses": {}}), "cpu")
    assert "loss_terms" in found.refused["test_planner_memory:Refuses"]
    assert found.memory.peak_bytes == pytest.approx(plain.peak_bytes, rel=0.01)


@pytest.mark.usefixtures("own_plugins")
def test_frozen_networks_of_any_size_count_in_what_an_image_costs() -> None:
    found = rehearse(tiny({"test_planner_memory:Asks": {}}), "cpu")
    other = attrs.evolve(found.config.model, width=32, heads=2, ffn_hidden=64, depth=3)
    assert found.config.data.micro_batch is not None
    assert found.frozen_flops == 5 * forward_flops(other, 64) / found.config.data.micro_batch


@pytest.mark.usefixtures("own_plugins")
def test_a_plugin_can_be_as_it_is_at_its_largest(plain: Memory) -> None:
    found = rehearse(tiny({"test_planner_memory:Keeps": {}}), "cpu")
    assert found.refused == {}
    assert found.memory.peak_bytes - plain.peak_bytes == 2**22


@pytest.mark.usefixtures("own_plugins")
def test_an_objective_that_needs_values_cannot_be_planned_for() -> None:
    with pytest.raises(UsageError, match=r"no plan can be made without values: .*LooksAtLosses failed in Curious"):
        rehearse(tiny({"test_planner_memory:LooksAtLosses": {}}), "cpu")


def test_portions_of_logits_are_those_of_a_gpu_while_it_is_imitated() -> None:
    cpu = torch.device("cpu")
    with imitating("cuda"):
        assert rows_at_once(2**20, cpu) == rows_at_once(2**20, torch.device("cuda")) == 32
    assert rows_at_once(2**20, cpu) == 4


def test_a_run_without_end_is_rehearsed_when_everything_has_begun(plain: Memory) -> None:
    endless = tiny(tables={"run": {"max_steps": None}, "init": {"path": "/nowhere", "freeze_backbone_steps": 100}})
    assert rehearse(endless, "cpu").memory.peak_bytes == pytest.approx(plain.peak_bytes, rel=0.01)
