"""rocm-tuning: memory that GPU and host share, the copy of a checkpoint in it, and the limit of torch's allocator."""

from __future__ import annotations

import functools
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rocm.fakes import STRIX_HALO

from bigrun.activation import activate
from bigrun.config import Config, Document
from bigrun.devices import DeviceFacts
from bigrun.planner.closed_form import StepMemory
from bigrun.testing.devices import device
from bigrun_rocm.allocator import LARGEST_FRACTION, allocator_evidence, limit_memory
from bigrun_rocm.checkpoint_copy import pinned_copy_bytes
from bigrun_rocm.config import RocmConfig
from bigrun_rocm.driver import DriverFacts
from bigrun_rocm.memory import GIB, HostNeed, expected_limit, host_need, memory_lines, unified_budget

SMALL_CARVE_OUT = DriverFacts(
    vram_total_bytes=GIB // 2, vram_used_bytes=0, gtt_total_bytes=round(62.54 * GIB), gtt_used_bytes=0,
    ttm_limit_bytes=round(62.54 * GIB),
)  # fmt: skip
LARGE_CARVE_OUT = DriverFacts(
    vram_total_bytes=96 * GIB, vram_used_bytes=GIB, gtt_total_bytes=15 * GIB, gtt_used_bytes=0,
    ttm_limit_bytes=15 * GIB,
)  # fmt: skip
NEARLY_ALL = attrs.evolve(SMALL_CARVE_OUT, gtt_total_bytes=120 * GIB, ttm_limit_bytes=120 * GIB)
TWELVE = HostNeed(4 * GIB, 8 * GIB)


@functools.cache
def configuration(architecture: str, background: bool = True) -> Config:
    tables: dict[str, Any] = {
        "run": {"max_steps": 1000, "background_checkpoints": background},
        "data": {"effective_batch": 256},
        "model": {"architecture": architecture},
        "objective": {"prototypes": 65536, "head_hidden": 2048, "head_bottleneck": 256},
    }
    return activate(Document("test", "test", tables))[0]


def with_memory(facts: DeviceFacts, *, ram_gib: float, free_gib: float, gpu_gib: float) -> DeviceFacts:
    host = attrs.evolve(facts.host, ram_total_bytes=round(ram_gib * GIB), ram_free_bytes=round(free_gib * GIB))
    size = round(gpu_gib * GIB)
    return attrs.evolve(facts, host=host, total_bytes=size, free_bytes=size)


# -- the budget -----------------------------------------------------------------------------------------------


def test_half_of_the_memory_by_default_recorded() -> None:
    """Half of 125 GiB by TTM's default: the host has more than the run needs."""
    budget = unified_budget(STRIX_HALO, SMALL_CARVE_OUT, TWELVE)
    assert (budget.bound_by, budget.limit_bytes) == ("torch", STRIX_HALO.total_bytes)
    lines = memory_lines(STRIX_HALO, SMALL_CARVE_OUT, budget)
    assert "the host needs 12.0 GiB (workers 8.0)" in lines[0]
    assert any("62.5 of 126 GiB; more with `amd-ttm --set`" in line for line in lines)
    assert not any(line.startswith("warning") for line in lines)


def test_what_the_host_needs_bounds_a_gpu_that_may_map_nearly_everything() -> None:
    facts = with_memory(STRIX_HALO, ram_gib=125, free_gib=110, gpu_gib=120)
    budget = unified_budget(facts, NEARLY_ALL, TWELVE)
    assert (budget.bound_by, budget.limit_bytes) == ("what the host can spare", round(113.5 * GIB))
    with_copy = attrs.evolve(TWELVE, checkpoint_bytes=24 * GIB)
    assert unified_budget(facts, NEARLY_ALL, with_copy).limit_bytes == round(89.5 * GIB)
    assert "(workers 8.0, the copy of a checkpoint 24.0)" in unified_budget(facts, NEARLY_ALL, with_copy).line()


def test_a_large_carve_out_leaves_little_to_the_host_recorded() -> None:
    """96 GiB set aside in the BIOS, 110 GiB for torch, 30.6 GiB for the host."""
    facts = device("gfx1151-b")
    budget = unified_budget(facts, LARGE_CARVE_OUT, TWELVE)
    assert budget.bound_by == "torch"
    short = attrs.evolve(TWELVE, checkpoint_bytes=24 * GIB)
    budget = unified_budget(facts, LARGE_CARVE_OUT, short)
    assert (budget.bound_by, budget.limit_bytes) == ("what the host can spare", 96 * GIB)
    (told,) = [line for line in memory_lines(facts, LARGE_CARVE_OUT, budget) if "run.background_checkpoints" in line]
    assert told.startswith("warning      the host has 30.6 GiB and needs 36.0 GiB")


@given(st.integers(0, 120), st.integers(0, 120), st.integers(0, 100))
def test_the_budget_does_not_depend_on_what_is_free(free: int, device_free: int, used: int) -> None:
    """A run that is continued beside another program has the micro-batch that it had."""
    facts = with_memory(STRIX_HALO, ram_gib=125, free_gib=125, gpu_gib=120)
    busy = attrs.evolve(with_memory(facts, ram_gib=125, free_gib=free, gpu_gib=120), free_bytes=device_free * GIB)
    driver = attrs.evolve(NEARLY_ALL, vram_used_bytes=GIB // 4, gtt_used_bytes=used * GIB)
    assert unified_budget(busy, driver, TWELVE) == unified_budget(facts, NEARLY_ALL, TWELVE)


@pytest.mark.parametrize(
    ("device_free", "ram_free", "told"),
    [(62.5, 120, None), (60, 120, None), (10, 120, "10.0"), (62.5, 40, "32.5"), (62.5, 2, "0.5")],
)
def test_memory_that_others_have_taken_is_said(device_free: float, ram_free: float, told: str | None) -> None:
    host = attrs.evolve(STRIX_HALO.host, ram_free_bytes=round(ram_free * GIB))
    facts = attrs.evolve(STRIX_HALO, free_bytes=round(device_free * GIB), host=host)
    lines = memory_lines(facts, SMALL_CARVE_OUT, unified_budget(facts, SMALL_CARVE_OUT, TWELVE))
    found = [line for line in lines if "are free at the moment" in line]
    assert len(found) == (told is not None)
    assert told is None or f"for the run {told} are free" in found[0]


def test_without_the_drivers_word_the_budget_is_what_torch_sees() -> None:
    budget = unified_budget(STRIX_HALO, DriverFacts(), TWELVE)
    assert budget.limits_bytes == {"torch": STRIX_HALO.total_bytes}
    assert any("does not say" in line for line in memory_lines(STRIX_HALO, DriverFacts(), budget))


def test_what_is_expected_of_a_device_that_is_not_here() -> None:
    """`bigrun plan` asks for one."""
    assert expected_limit(STRIX_HALO, RocmConfig()) == round(0.99 * STRIX_HALO.total_bytes)
    assert expected_limit(STRIX_HALO, RocmConfig(memory_limit_gib=20.0)) == 20 * GIB
    assert expected_limit(STRIX_HALO, RocmConfig(memory_limit_gib=500.0)) < STRIX_HALO.total_bytes


@given(*[st.integers(0, 200)] * 5)
def test_the_budget_is_within_every_limit(total: int, ram: int, vram: int, gtt: int, reserve: int) -> None:
    facts = with_memory(STRIX_HALO, ram_gib=ram, free_gib=ram, gpu_gib=total)
    budget = unified_budget(facts, DriverFacts(vram * GIB, 0, gtt * GIB, 0, gtt * GIB), HostNeed(reserve * GIB))
    assert 0 <= budget.limit_bytes <= facts.total_bytes
    assert budget.limit_bytes == min(budget.limits_bytes.values()) == budget.limits_bytes[budget.bound_by]


# -- what the host needs --------------------------------------------------------------------------------------


def test_the_host_needs_what_decodes_what_waits_and_the_copy_of_a_checkpoint() -> None:
    config = configuration("vit_giant")
    need = host_need(config, 8, 2, 64, 1, None)
    assert need.system_bytes == 4 * GIB
    assert need.workers_bytes == 8 * (GIB // 2 + 2 * 64 * 4 * 10**6)
    assert need.checkpoint_bytes == pinned_copy_bytes(config, 1)
    assert host_need(configuration("vit_giant", background=False), 8, 2, 64, 1, None).checkpoint_bytes == 0
    assert host_need(config, 8, 2, 64, 1, 30.0) == HostNeed(30 * GIB)


@pytest.mark.parametrize("architecture", ["vit_small", "vit_large", "vit_giant"])
@pytest.mark.parametrize("frozen", [0, 1])
def test_the_copy_holds_the_state_and_less_than_twice_of_it(architecture: str, frozen: int) -> None:
    config = configuration(architecture)
    state = StepMemory(config, frozen).static_bytes
    assert state < pinned_copy_bytes(config, frozen) < 2 * state


def test_the_copy_of_a_giants_state() -> None:
    """1.1 billion weights, four numbers of 4 bytes for each, in buffers of whole powers of two."""
    assert 17 * GIB < pinned_copy_bytes(configuration("vit_giant")) < 28 * GIB


@pytest.mark.parametrize("architecture", ["vit_tiny", "vit_small"])
def test_the_copy_is_what_torch_would_take_for_the_tensors_of_a_real_state(architecture: str) -> None:
    """The networks themselves, without storage; each tensor in a buffer of a power of two."""
    from bigrun.model.heads import ProjectionHead
    from bigrun.model.vit import VisionTransformer

    config = configuration(architecture)
    objective, width = config.objective, config.model.width
    sizes = [
        (objective.head_hidden, objective.head_bottleneck, objective.prototypes),
        (
            objective.ibot_head_hidden or objective.head_hidden,
            objective.ibot_head_bottleneck or objective.head_bottleneck,
            objective.ibot_prototypes,
        ),
    ]
    with torch.device("meta"):
        parts = [VisionTransformer(config.model)]
        parts += [ProjectionHead(width, *size, layers=objective.head_layers) for size in sizes]  # type: ignore[list-item, arg-type]
    parameters = [p for part in parts for p in part.parameters()]
    expected = 4 * sum(1 << (4 * p.numel() - 1).bit_length() for p in parameters)
    assert pinned_copy_bytes(config) == pytest.approx(expected, rel=0.01)


# -- the limit of the allocator -------------------------------------------------------------------------------


class FakeAllocator:
    """As torch's: a fraction of 1 is no limit."""

    def __init__(self, patch: pytest.MonkeyPatch, fraction: float = 1.0) -> None:
        self.fraction = fraction
        self.settings: dict[str, Any] = {"garbage_collection_threshold": 0.8}
        patch.setattr("torch.cuda.memory.get_per_process_memory_fraction", lambda: self.fraction)
        patch.setattr("torch.cuda.memory.set_per_process_memory_fraction", self.limit)
        patch.setattr(torch.cuda.memory, "_snapshot", lambda: {"allocator_settings": self.settings})

    def limit(self, fraction: float) -> None:
        self.fraction = fraction


@pytest.mark.parametrize(("limit_gib", "expected"), [(32, 0.5), (63.9, 0.99), (64, 0.99), (100, 0.99)])
def test_there_is_always_a_limit_below_the_device(
    monkeypatch: pytest.MonkeyPatch, limit_gib: float, expected: float
) -> None:
    """With a fraction of 1 torch has none, and then gives no unused block back."""
    allocator = FakeAllocator(monkeypatch)
    row, fraction, undo = limit_memory(round(limit_gib * GIB), 64 * GIB, "why", is_custom=False)
    assert fraction == allocator.fraction == pytest.approx(expected)
    assert (row.before, row.after, row.took_effect) == ("none", f"{expected * 64:.1f} GiB", True)
    assert "for torch's allocator alone" in row.evidence
    assert undo is not None
    undo()
    assert allocator.fraction == 1.0


def test_a_limit_that_is_not_there_afterwards_took_no_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeAllocator(monkeypatch)
    monkeypatch.setattr("torch.cuda.memory.set_per_process_memory_fraction", lambda _: None)
    row, fraction, _ = limit_memory(32 * GIB, 64 * GIB, "why", is_custom=False)
    assert (row.took_effect, fraction) == (False, 1.0)


def test_a_limit_that_was_there_before_stays_unless_an_option_says_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """`per_process_memory_fraction` in the environment, or a program that uses bigrun as a library."""
    allocator = FakeAllocator(monkeypatch, 0.25)
    row, fraction, undo = limit_memory(32 * GIB, 64 * GIB, "why", is_custom=False)
    assert (fraction, undo, allocator.fraction) == (0.25, None, 0.25)
    assert (row.after, row.is_custom) == ("16.0 GiB", True)
    row, fraction, undo = limit_memory(32 * GIB, 64 * GIB, "by option", is_custom=True)
    assert (row.before, row.after, fraction) == ("16.0 GiB", "32.0 GiB", 0.5)
    assert undo is not None
    undo()
    assert allocator.fraction == 0.25


def test_a_threshold_without_a_limit_has_no_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    allocator = FakeAllocator(monkeypatch)
    wanted = "garbage_collection_threshold:0.8"
    took, why = allocator_evidence(wanted, 1.0, torch_was_there=False)
    assert (took, "without a memory limit" in why) == (False, True)
    assert allocator_evidence(wanted, LARGEST_FRACTION, torch_was_there=False)[0] is True
    allocator.settings["garbage_collection_threshold"] = 0.0
    assert allocator_evidence(wanted, LARGEST_FRACTION, torch_was_there=False)[0] is False
