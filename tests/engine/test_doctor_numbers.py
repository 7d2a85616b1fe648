"""What `bigrun doctor` says of numbers and speeds: right ones, wrong ones, none."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from bigrun.doctor import bandwidth, products, speed
from bigrun.doctor.attention import KERNELS, attend, attention_rows, kernels_here, kernels_row
from bigrun.doctor.bandwidth import bandwidth_rows
from bigrun.doctor.products import (
    BF16_TOLERANCE,
    FP32_TOLERANCE,
    fp32_row,
    product_rows,
    relative_errors,
    rounded,
    verdict_of,
)
from bigrun.doctor.speed import speed_rows, tflops
from bigrun.doctor.subject import Subject
from bigrun.doctor.timing import best_seconds
from bigrun.testing.devices import DEVICES

CPU = torch.device("cpu")


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    return Subject(tmp_path, wish="cpu")


def test_this_processor_computes_right_numbers(subject: Subject) -> None:
    rows = {row.name: row for row in (*product_rows(subject), *attention_rows(subject))}
    assert {row.verdict for row in rows.values()} == {"ok"}
    for name in ("bf16 products ViT-S", "bf16 products ViT-L", "attention math ViT-L", "attention of a run ViT-S"):
        assert 1e-3 < rows[name].facts["error"] < 8e-3  # bf16 was used
    assert rows["fp32 products"].facts["error"] < 1e-6


def test_a_result_that_is_rounded_once_is_off_by_what_the_tolerance_says() -> None:
    x = torch.randn(512, 512, generator=torch.Generator().manual_seed(1))
    (error,) = relative_errors([x.bfloat16().double()], [x.double()])
    assert 1.5e-3 < error < 2.0**-9
    (y,) = rounded((512, 512))
    assert torch.equal(y, y.bfloat16().float())


@pytest.mark.parametrize("spoil", [lambda y: y * 1.02, lambda y: y.flip(0), lambda y: y * math.nan, lambda y: y * 0])
def test_wrong_products_fail(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Tensor], Tensor]
) -> None:
    right = products.products

    def wrong(inputs: list[Tensor], device: torch.device, dtype: torch.dtype) -> list[Tensor]:
        found = right(inputs, device, dtype)
        return [*found[:2], spoil(found[2])] if dtype is torch.bfloat16 else found

    monkeypatch.setattr(products, "products", wrong)
    monkeypatch.setattr(products, "BLOCKS", {"ViT-S": (384, 6)})
    rows = {row.name: row for row in product_rows(subject)}
    assert {name: row.verdict for name, row in rows.items() if row.verdict != "ok"} == {"bf16 products ViT-S": "fail"}
    assert "wrong numbers" in str(rows["bf16 products ViT-S"].remedy)


def test_one_number_that_is_none_is_found() -> None:
    x = torch.ones(4, 4, dtype=torch.float64)
    bad = x.clone()
    bad[1, 2] = math.inf
    row = verdict_of("x", relative_errors([x, bad], [x, x]), BF16_TOLERANCE)
    assert (row.verdict, row.found, row.facts) == ("fail", "numbers that are not finite", {})


def test_tf32_is_told_apart_from_wrong_numbers() -> None:
    assert fp32_row([1e-6, 2e-6, 1e-6]).verdict == "ok"
    assert "TF32" in fp32_row([4e-4, 4e-4, 4e-4]).found
    assert fp32_row([4e-4, 4e-4, 4e-4]).verdict == "warn"
    assert fp32_row([0.1, 1e-6, 1e-6]).verdict == fp32_row([1e-6, math.nan, 1e-6]).verdict == "fail"
    assert FP32_TOLERANCE < 2.0**-11


def test_wrong_attention_fails() -> None:
    inputs = rounded(*[(1, 2, 33, 16)] * 4)
    right = attend(lambda q, k, v: torch.softmax(q @ k.mT / 4, -1) @ v, inputs, CPU, torch.float32)
    again = attend(torch.nn.functional.scaled_dot_product_attention, inputs, CPU, torch.float32)
    assert max(relative_errors(again, right)) < 1e-5
    unscaled = attend(lambda q, k, v: torch.softmax(q @ k.mT, -1) @ v, inputs, CPU, torch.float32)
    assert verdict_of("x", relative_errors(unscaled, right), 2**-7, 2**-5).verdict == "fail"


def test_kernels_of_attention() -> None:
    here = kernels_here(CPU)
    assert {"flash", "math"} <= set(here) <= set(KERNELS)
    assert "cuDNN" not in here
    assert kernels_row(here, CPU).verdict == "ok"
    gpu = torch.device("cuda")
    assert kernels_row(["math"], gpu).verdict == "warn"
    assert kernels_row(["flash", "math"], gpu).verdict == "ok"


def test_speeds_are_measured(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "SIZES", {"cpu": (64, 128)})
    monkeypatch.setattr(bandwidth, "HOST_BYTES", 1 << 20)
    for module in (speed, bandwidth):
        monkeypatch.setattr(module, "best_seconds", lambda work, device, *_: best_seconds(work, device, 0.01))
    rows = {row.name: row for row in (*speed_rows(subject), *bandwidth_rows(subject))}
    assert list(rows) == ["bf16 speed", "fp32 speed", "bf16 against fp32", "memory speed"]
    for name in ("bf16 speed", "fp32 speed", "memory speed"):
        assert rows[name].verdict == "info"  # no peak is known of a processor
        assert rows[name].facts["measured"] > 0


def test_a_size_that_would_take_too_long_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def seconds(work: Callable[[], Tensor], device: torch.device, limit_seconds: float) -> float:
        tried.append(work().shape[0])
        return {64: 0.001, 128: 0.5}[tried[-1]]

    monkeypatch.setattr(speed, "SIZES", {"cpu": (64, 128, 1 << 20)})
    monkeypatch.setattr(speed, "best_seconds", seconds)
    assert tflops(CPU, torch.float32) == pytest.approx(2 * 64**3 / 0.001 / 1e12)
    assert tried == [64, 128]


def test_the_best_of_several_times_is_taken() -> None:
    delays = iter([0.15, 0.12, 0.001, *[0.12] * 100])
    assert 0.001 <= best_seconds(lambda: time.sleep(next(delays)), CPU, limit_seconds=0.6) < 0.1
    calls = []
    best_seconds(lambda: calls.append(1), CPU, limit_seconds=0.0)
    assert len(calls) == 2


def test_ways_between_host_and_device_over_a_slot_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subject: Subject
) -> None:
    """The facts are a GPU's, its memory is the host's, and its slot has 8 lanes of generation 1000."""
    slot = tmp_path / "sys/bus/pci/devices/0000:5d:00.0"
    slot.mkdir(parents=True)
    (slot / "max_link_speed").write_text("64000.0 GT/s PCIe\n")
    (slot / "current_link_width").write_text("8\n")
    properties = SimpleNamespace(pci_domain_id=0, pci_bus_id=0x5D, pci_device_id=0)
    zeros = torch.zeros
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch, "zeros", lambda *shape, pin_memory=False, **options: zeros(*shape, **options))
    monkeypatch.setattr(bandwidth, "best_seconds", functools.partial(best_seconds, limit_seconds=0.01))
    monkeypatch.setattr(bandwidth, "HOST_BYTES", 1 << 20)
    monkeypatch.setattr(bandwidth, "DEVICE_BYTES", 1 << 20)
    subject.root = tmp_path
    subject.facts = DEVICES["h200"]
    rows = {row.name: row for row in bandwidth_rows(subject)}
    assert {name: row.verdict for name, row in rows.items()} == {
        "memory speed": "warn",  # not 4800 GB/s
        "host to device": "warn",
        "host to device, pageable": "info",
        "device to host": "warn",
    }
    assert rows["host to device"].facts["peak"] == pytest.approx(63015, rel=1e-3)
    subject.facts = DEVICES["gfx1151-a"]
    assert {row.facts["peak"] for row in bandwidth_rows(subject) if row.name != "memory speed"} == {None}
