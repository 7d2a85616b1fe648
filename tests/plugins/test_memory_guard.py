"""memory-guard: what is told of a full memory, and when."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import psutil
import pytest
import torch
from training import Training

from bigrun.testing.contract import PluginContract
from bigrun.testing.runner import Runner
from bigrun_memory import plugin as module
from bigrun_memory.judge import Limits, judge
from bigrun_memory.plugin import PROCESS, compared
from bigrun_memory.reading import HostReading, Reading, read

GIB = 2**30
LIMITS = Limits(0.03, 0.05, 0.2)
HOST = HostReading(64 * GIB, 40 * GIB)
# A 24 GiB card in the middle of a training.
CALM = Reading(
    HOST,
    total_bytes=24 * GIB,
    free_bytes=3 * GIB,
    allocated_bytes=9 * GIB,
    peak_bytes=19 * GIB,
    reserved_bytes=20 * GIB,
    retries=0,
)


class TestContract(PluginContract):
    plugin = "memory-guard"


def kinds(now: Reading, before: Reading | None = None) -> list[str]:
    return [shortage.kind for shortage in judge(now, before, LIMITS)]


@pytest.mark.parametrize(
    ("now", "before", "expected"),
    [
        (CALM, None, []),
        (CALM, CALM, []),
        (Reading(HOST), None, []),
        (
            attrs.evolve(CALM, free_bytes=GIB // 2, reserved_bytes=23 * GIB, peak_bytes=22 * GIB),
            CALM,
            ["device-memory"],
        ),
        (
            attrs.evolve(CALM, free_bytes=GIB // 2, reserved_bytes=23 * GIB, peak_bytes=15 * GIB),
            CALM,
            ["device-memory", "fragmentation"],
        ),
        (attrs.evolve(CALM, peak_bytes=10 * GIB), CALM, []),  # in pieces, but there is room
        (attrs.evolve(CALM, retries=3), CALM, ["allocator-retries"]),
        (attrs.evolve(CALM, retries=3), attrs.evolve(CALM, retries=3), []),
        (attrs.evolve(CALM, retries=3), None, []),  # of a process before the plugin looked
        (attrs.evolve(CALM, reserved_bytes=12 * GIB, peak_bytes=11 * GIB), CALM, ["others-on-the-device"]),
        # A process that may take 20.5 of the 24 GiB has little left, though the device has; one that may take 22 has.
        (attrs.evolve(CALM, limit_bytes=41 * GIB // 2), CALM, ["device-memory"]),
        (attrs.evolve(CALM, limit_bytes=41 * GIB // 2, peak_bytes=12 * GIB), CALM, ["device-memory", "fragmentation"]),
        (attrs.evolve(CALM, limit_bytes=22 * GIB), CALM, []),
        (attrs.evolve(CALM, limit_bytes=12 * GIB), CALM, ["device-memory"]),  # set after it had taken more
        # Where device and host share it, what is not free may be anybody's.
        (attrs.evolve(CALM, is_of_host=True, reserved_bytes=12 * GIB, peak_bytes=11 * GIB), CALM, []),
        (attrs.evolve(CALM, is_of_host=True, free_bytes=GIB // 2), CALM, ["device-memory"]),
        (attrs.evolve(CALM, host=HostReading(64 * GIB, 3 * GIB)), CALM, ["host-memory"]),
        (Reading(HostReading(0, 0)), None, []),  # a machine that does not say
    ],
)
def test_what_is_wrong_with_a_reading(now: Reading, before: Reading | None, expected: list[str]) -> None:
    assert kinds(now, before) == expected


def test_messages_say_how_much_and_what_to_change() -> None:
    full = attrs.evolve(CALM, free_bytes=GIB // 2, reserved_bytes=23 * GIB, peak_bytes=15 * GIB)
    device, pieces = (shortage.message for shortage in judge(full, CALM, LIMITS))
    assert "0.5 GiB of 24.0 GiB" in device
    assert "data.micro_batch" in device
    assert "35% of what torch has" in pieces
    assert "expandable_segments:True" in pieces


def test_the_message_names_what_is_full() -> None:
    (limit,) = judge(attrs.evolve(CALM, limit_bytes=41 * GIB // 2), CALM, LIMITS)
    assert limit.message.startswith("0.5 GiB are left of the 20.5 GiB that this process may take of the device (torch.")
    assert "set_per_process_memory_fraction" in limit.message
    (shared,) = judge(attrs.evolve(CALM, is_of_host=True, free_bytes=GIB // 2), CALM, LIMITS)
    assert shared.message.startswith("0.5 GiB of 24.0 GiB of the device's memory, which it shares with the host, are")


STATS = {
    "allocated_bytes.all.current": 9 * GIB, "allocated_bytes.all.peak": 19 * GIB,
    "reserved_bytes.all.current": 20 * GIB, "num_alloc_retries": 2,
}  # fmt: skip


@pytest.mark.parametrize(("fraction", "limit_bytes"), [(1.0, None), (0.85, int(0.85 * 24 * GIB))])
def test_the_limit_of_the_process_is_read(
    monkeypatch: pytest.MonkeyPatch, fraction: float, limit_bytes: int | None
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3 * GIB, 24 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: STATS)
    monkeypatch.setattr(torch.cuda.memory, "get_per_process_memory_fraction", lambda device: fraction)
    reading = read(torch.device("cuda", 0))
    assert (reading.free_bytes, reading.reserved_bytes, reading.limit_bytes) == (3 * GIB, 20 * GIB, limit_bytes)
    assert reading.room_bytes == (3 * GIB if limit_bytes is None else limit_bytes - 20 * GIB)


def test_numbers_that_follow_from_others() -> None:
    assert (CALM.used_bytes, CALM.foreign_bytes) == (21 * GIB, GIB)
    assert CALM.fragmentation == pytest.approx(0.05)
    assert (Reading(HOST).used_bytes, Reading(HOST).foreign_bytes, Reading(HOST).fragmentation) == (None, None, None)


def test_the_machine_is_read_and_a_cpu_has_no_more() -> None:
    reading = read(torch.device("cpu"))
    assert 0 < reading.host.free_bytes <= reading.host.total_bytes
    assert reading.total_bytes is None


@pytest.mark.gpu
def test_a_gpu_is_read() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    kept = torch.empty(64 * 2**20, dtype=torch.uint8, device=device)
    reading = read(device)
    assert reading.allocated_bytes is not None
    assert reading.reserved_bytes is not None
    assert len(kept) <= reading.allocated_bytes <= reading.reserved_bytes


def test_each_is_told_when_it_begins_and_when_it_ends(bigrunner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    low = attrs.evolve(CALM, host=HostReading(64 * GIB, GIB))
    readings: Any = iter([CALM, low, low, CALM, low])
    monkeypatch.setattr(module, "read", lambda device, is_unified: next(readings))
    result = bigrunner.run("memory-guard", config={"compare_prediction": False}, run={"max_steps": 4})
    told = [
        (event.kind, event.step, event.facts["memory"]) for event in result.events if event.kind.startswith("memory")
    ]
    assert told == [
        ("memory-low", 1, "host-memory"), ("memory-recovered", 3, "host-memory"), ("memory-low", 4, "host-memory"),
    ]  # fmt: skip
    (first, *_) = (event for event in result.events if event.kind == "memory-low")
    assert first.level == "warning"
    assert first.facts["host"] == {"total_bytes": 64 * GIB, "free_bytes": GIB}


# -- what was predicted ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_was_predicted_is_said_beside_what_was_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The prediction is the planner's own, by a process that ends with the run."""
    training = Training(tmp_path, run={"max_steps": 400, "checkpoint_every_steps": 400}, plugins={"memory-guard": {}})
    done = training()
    assert done.returncode == 0, done.stderr
    (event,) = training.events("memory-predicted")
    assert event["step"] > 1
    assert 10**6 < event["facts"]["predicted_bytes"] < 10**9
    assert event["facts"]["measured_bytes"] > 10**6
    assert "predicted 0.0" in event["message"]


def test_a_run_that_ends_first_leaves_no_process(tmp_path: Path) -> None:
    training = Training(tmp_path, run={"max_steps": 1}, plugins={"memory-guard": {}})
    assert training().returncode == 0
    assert training.events("memory-predicted") == []
    here = str(tmp_path)
    assert not [p for p in psutil.process_iter(["cmdline"]) if here in " ".join(p.info["cmdline"] or ())]


def test_what_a_comparison_says() -> None:
    message, facts = compared(20 * GIB, (21 * GIB, "tensors took"))
    assert message == "predicted 20.00 GiB in tensors at most; tensors took 21.00 GiB (+5%)"
    assert facts == {"predicted_bytes": 20 * GIB, "measured_bytes": 21 * GIB}
    message, _ = compared(20 * GIB, (21 * GIB, PROCESS))
    assert message.endswith("the process grew by 21.00 GiB, with its libraries and what its heap keeps")
    message, facts = compared(0, (21 * GIB, "tensors took"))
    assert "could not predict" in message
    assert facts["predicted_bytes"] is None
