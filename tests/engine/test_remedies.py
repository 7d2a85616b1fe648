"""What the planner says where memory has run out: by the closed form, whatever the device is."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigrun.activation import activate
from bigrun.config import Config, read_preset
from bigrun.planner.closed_form import StepMemory
from bigrun.planner.regrouping import Regrouping, regrouping
from bigrun.planner.remedies import MODES, Shortfall, limit_bytes, modes_of, what_fits
from bigrun.same_objective import micro_batches
from bigrun.strategy import SingleProcess
from bigrun.testing.devices import device
from bigrun_savers.two_passes import TwoPasses

GIB = 2**30


def config(preset: str = "vit_large", *sets: str) -> Config:
    plugins = list(read_preset(preset).tables["plugins"])
    return activate(read_preset(preset, sets, no_plugins=plugins))[0]


LARGE = config()
"""Micro-batches of 32 x 8 without activation checkpointing."""


@given(st.integers(1, 200 * GIB), st.floats(-2e9, 5e9), st.sampled_from(["cuda", "rocm", "cpu"]))
def test_what_is_offered_needs_less_than_what_failed_and_keeps_the_effective_batch(
    limit: int, more: float, backend: str
) -> None:
    shortfall = Shortfall(StepMemory(LARGE), backend, limit, more)
    failed = shortfall.need_bytes(*shortfall.failed)
    for fit in shortfall.fits():
        assert fit.micro_batch is not None
        assert fit.accumulate is not None
        assert fit.micro_batch * fit.accumulate == 256
        assert fit.micro_batch % (LARGE.objective.koleo_group or 1) == 0
        assert fit.need_bytes <= limit
        assert fit.need_bytes <= round(0.9 * failed), "what needs as much within the form's error would fail, too"
        larger = [size for size in micro_batches(LARGE) if size > fit.micro_batch]
        if larger:
            mode: Any = fit.activation_checkpointing
            assert shortfall.need_bytes(larger[0], mode) > min(limit, round(0.9 * failed))


def test_with_and_without_activation_checkpointing_and_in_plain_words() -> None:
    said = list(what_fits(Shortfall(StepMemory(LARGE), "cuda", round(23.5 * GIB), segments_grow=True)))
    assert said[0].startswith("by the planner's closed form such a step takes 30.")
    assert said[0].endswith("and this process can have 23.5 GiB; what plugins spare within a step is not counted")
    assert said[1].startswith("what fits by it, with the same effective batch of 256: data.micro_batch = 16 (16 x 16, ")
    assert 'data.micro_batch = 128 and hardware.activation_checkpointing = "full" (128 x 2, ' in said[1]


def test_where_the_form_says_that_it_should_have_fitted_something_else_is_suspected() -> None:
    shortfall = Shortfall(StepMemory(LARGE), "cuda", 140 * GIB)
    assert "something else must have taken the memory" in next(iter(what_fits(shortfall)))
    own = [fit for fit in shortfall.fits() if fit.activation_checkpointing == "none"]
    assert [fit.micro_batch for fit in own] == [16], "what has just failed is not offered again"


def test_where_nothing_fits_it_says_so() -> None:
    said = list(what_fits(Shortfall(StepMemory(config("vit_giant")), "cuda", 16 * GIB)))
    assert len(said) == 2
    assert said[1].startswith("no micro-batch fits by it, not even 16 with activation checkpointing full, which takes ")


def test_what_is_held_beyond_the_form_counts() -> None:
    form = StepMemory(LARGE)
    few, many = (Shortfall(form, "cpu", GIB, more).need_bytes(16, "full") for more in (0.0, 3e9))
    assert many - few == pytest.approx(3e9, abs=2)


def test_each_way_of_activation_checkpointing_needs_less_than_the_one_before() -> None:
    shortfall = Shortfall(StepMemory(LARGE), "cuda", GIB)
    needs = [shortfall.need_bytes(16, mode) for mode in MODES]
    assert needs == sorted(needs, reverse=True)


def test_segments_of_a_fixed_size_need_more() -> None:
    fixed = Shortfall(StepMemory(LARGE), "cuda", GIB)
    growing = attrs.evolve(fixed, segments_grow=True)
    tensors = StepMemory(LARGE).peak_bytes(16, "none")
    assert fixed.need_bytes(16, "none") == pytest.approx(1.25 * tensors + 0.7 * GIB, abs=2)
    assert growing.need_bytes(16, "none") == pytest.approx(1.08 * tensors + 0.7 * GIB, abs=2)


@pytest.mark.parametrize("own", MODES)
def test_less_activation_checkpointing_than_that_which_failed_is_never_offered(own: str) -> None:
    failed = config("vit_large", f"hardware.activation_checkpointing={own}", "data.micro_batch=256")
    found = [fit.activation_checkpointing for fit in Shortfall(StepMemory(failed), "cuda", 60 * GIB).fits()]
    assert found == list(MODES[MODES.index(own) :])  # type: ignore[arg-type]


def test_a_mode_that_the_run_does_not_take_is_not_offered() -> None:
    shortfall = Shortfall(StepMemory(LARGE), "cuda", 30 * GIB, modes=("none", "full"))
    assert [fit.activation_checkpointing for fit in shortfall.fits()] == ["none", "full"]


@pytest.mark.parametrize(("strategy", "modes"), [(SingleProcess, MODES), (TwoPasses, ("none", "full"))])
def test_selective_is_not_offered_where_a_plugin_goes_backward(strategy: type, modes: tuple[str, ...]) -> None:
    run: Any = SimpleNamespace(strategy=object.__new__(strategy))
    assert modes_of(run) == modes


def test_groups_that_a_rule_has_chosen_are_set_beside_another_micro_batch() -> None:
    small = config("vit_large", "data.micro_batch=8", "data.effective_batch=32")
    assert small.objective.koleo_group == 8
    said = list(what_fits(attrs.evolve(Shortfall(StepMemory(small), "cuda", 60 * GIB), more_bytes=10 * GIB)))[1]
    assert 'data.micro_batch = 32 and hardware.activation_checkpointing = "full" and objective.koleo_group = 8' in said
    by_hand = config("vit_large", "data.micro_batch=8", "data.effective_batch=32", "objective.koleo_group=8")
    assert "koleo_group" not in " ".join(what_fits(Shortfall(StepMemory(by_hand), "cuda", 60 * GIB)))


@pytest.mark.parametrize(
    ("micro_batch", "sets", "expected"),
    [
        (32, (), None),
        (64, (), None),
        (16, (), None),
        (8, (), Regrouping(16, 8, can_stay=False)),
        (16, ("data.micro_batch=8",), Regrouping(8, 16, can_stay=True)),
        (16, ("data.micro_batch=8", "objective.koleo_group=8"), None),
        (8, ("objective.koleo_weight=0.0",), None),
    ],
)
def test_a_rule_may_make_other_groups_of_another_micro_batch(
    micro_batch: int, sets: tuple[str, ...], expected: Regrouping | None
) -> None:
    assert regrouping(config("vit_large", *sets), micro_batch) == expected


def test_it_takes_no_torch_and_no_time() -> None:
    script = """
import sys, time
from bigrun.activation import activate
from bigrun.config import read_preset
from bigrun.planner.closed_form import StepMemory
from bigrun.planner.remedies import Shortfall, what_fits
config, _ = activate(read_preset("vit_giant", ["data.effective_batch=720720", "data.micro_batch=720720"]))
print("torch" in sys.modules)
began = time.process_time()
list(what_fits(Shortfall(StepMemory(config), "cuda", 80 * 2**30)))
print("torch" in sys.modules, time.process_time() - began < 2)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    before, after = done.stdout.splitlines()
    assert after.endswith("True")
    assert after.startswith(before)


@pytest.mark.parametrize(
    ("free_gib", "reserved_gib", "fraction", "expected_gib"),
    [(20, 3, 1.0, 23.7), (1, 12, 1.0, 13.7), (20, 3, 0.5, 12.7), (23, 1, 1.0, 24)],
    ids=["nearly all", "others have the rest", "a fraction is allowed", "no more than there is"],
)
def test_of_a_gpu_a_process_can_have_what_is_free_and_what_it_has(
    monkeypatch: pytest.MonkeyPatch, free_gib: int, reserved_gib: int, fraction: float, expected_gib: float
) -> None:
    """The counters of torch and of a driver that are not here."""
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (free_gib * GIB, 24 * GIB))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda device: reserved_gib * GIB)
    monkeypatch.setattr("torch.cuda.get_per_process_memory_fraction", lambda device: fraction)
    run: Any = SimpleNamespace(device=SimpleNamespace(type="cuda"), facts=device("rtx4090"))
    assert limit_bytes(run) == pytest.approx(expected_gib * GIB, rel=1e-6)

    def gone(device: Any) -> Any:
        raise RuntimeError("CUDA error: unknown error")

    monkeypatch.setattr("torch.cuda.mem_get_info", gone)
    assert limit_bytes(run) == run.facts.total_bytes


def test_a_larger_network_of_a_plugin_is_a_reason_for_less() -> None:
    less = attrs.evolve(Shortfall(StepMemory(LARGE), "cuda", 40 * GIB), more_bytes=20 * GIB)
    assert sum(fit.micro_batch or 0 for fit in less.fits()) < sum(
        fit.micro_batch or 0 for fit in attrs.evolve(less, more_bytes=0.0).fits()
    )
