"""telemetry: what a run leaves, and that it stays what it was."""

from __future__ import annotations

import errno
import itertools
import json
import sys
import threading
import time
import types
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pluggy
import psutil
import pytest
import torch
from hardware import fake_nvml

from bigrun import hookimpl
from bigrun.devices.host import memory_bytes
from bigrun.errors import ConfigError, ExitCode
from bigrun.testing.contract import PluginContract
from bigrun.testing.runner import Runner
from bigrun_telemetry import flags, usual
from bigrun_telemetry.allocator import read_allocator
from bigrun_telemetry.gpu import Gpu
from bigrun_telemetry.rows import Rows
from bigrun_telemetry.sample import Sample
from bigrun_telemetry.work import kind_of_step, moved_bytes


class TestContract(PluginContract):
    plugin = "telemetry"
    config: ClassVar[dict[str, Any]] = {"interval_seconds": 0.05}


# -- what a run leaves ----------------------------------------------------------------------------------------

QUICK = {"interval_seconds": 0.05}


def rows_of(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "telemetry.jsonl").read_text(encoding="utf-8").splitlines()]


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("telemetry")}


class Takes:
    """Every step takes this long."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    @hookimpl
    def before_step(self) -> None:
        time.sleep(self.seconds)


class Call:
    """Calls a function in a hook of one step."""

    def __init__(self, step: int, function: Callable[[Any], object]) -> None:
        self.step, self.function = step, function

    @hookimpl
    def before_step(self, run: Any, step: int) -> None:
        if step == self.step:
            self.function(run)


def test_rows_have_the_machine_and_the_run(bigrunner: Runner) -> None:
    result = bigrunner.run("telemetry", config=QUICK, companions=[Takes(0.1)], steps=5)
    result.assert_finished()
    rows = rows_of(result.directory)
    assert len(rows) >= 3
    times = [datetime.fromisoformat(row["time_utc"]) for row in rows]
    assert times == sorted(times)
    assert times[0].tzinfo == UTC
    steps = [row["step"] for row in rows]
    assert steps == sorted(steps)
    last = rows[-1]
    assert last["host_memory_total_bytes"] == memory_bytes()[0] <= psutil.virtual_memory().total
    assert last["step_p50_ms"] > 100
    assert last["flags"] == []
    assert not [name for name in last if name.startswith(("gpu_", "torch_"))], "there is no GPU"
    assert result.events == []
    assert threads() == set()


def test_a_resumed_run_adds_to_the_history(bigrunner: Runner) -> None:
    first = bigrunner.run("telemetry", config=QUICK, steps=3)
    before = (first.directory / "telemetry.jsonl").read_bytes()
    resumed = bigrunner.resume(first, at_step=1)
    resumed.assert_finished()
    after = (resumed.directory / "telemetry.jsonl").read_bytes()
    assert after.startswith(before)
    assert len(after) > len(before)


def test_a_run_that_hangs_says_so_while_no_hook_is_called(
    bigrunner: Runner, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(flags, "HUNG_SECONDS", 0.3)
    seen: list[list[str]] = []
    said: list[str] = []

    def hang(run: Any) -> None:
        until = time.monotonic() + 30
        while time.monotonic() < until and not (seen and seen[-1]):
            time.sleep(0.05)
            seen.append(rows_of(run.directory)[-1]["flags"])
        said.append(capfd.readouterr().err)

    result = bigrunner.run("telemetry", config=QUICK, companions=[Call(4, hang)], steps=8)
    result.assert_finished()
    assert seen[-1] == ["HUNG"]
    assert "telemetry: HUNG: step 4 has stood still for" in said[0]
    states = [event.facts["state"] for event in result.events if event.facts.get("flag") == "HUNG"]
    assert states[0] == "began"
    began = next(event for event in result.events if event.kind == "telemetry-flag")
    assert (began.level, began.facts["standing_step"], began.facts["activity"]) == ("error", 4, "step")
    assert began.facts["seen_utc"] < began.time_utc, "when it was found, not when it could be told"


def test_events_come_from_the_runs_own_thread(bigrunner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flags, "FREE", 1.0)
    heard: list[str] = []

    class Listen:
        @hookimpl
        def on_event(self, event: Any) -> None:
            heard.append(f"{event.facts.get('flag')} {event.facts.get('state')} {threading.current_thread().name}")

    bigrunner.run("telemetry", config=QUICK, companions=[Listen(), Takes(0.1)], steps=4).assert_finished()
    assert heard == [f"MEMORY began {threading.current_thread().name}"]


def test_a_source_that_breaks_is_an_event_and_the_run_goes_on(
    bigrunner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any) -> Any:
        raise OSError("the sensors are on fire")

    monkeypatch.setattr("bigrun_telemetry.host.Host.read", broken)
    result = bigrunner.run("telemetry", config=QUICK, companions=[Takes(0.1)], steps=4)
    result.assert_finished()
    (event,) = result.events
    assert (event.kind, event.level) == ("telemetry-source", "warning")
    assert (event.facts["source"], event.facts["state"]) == ("host", "lost")
    assert "OSError: the sensors are on fire" in event.message
    assert rows_of(result.directory)[-1]["step"] >= 2, "what is left is still sampled"


def test_a_gpu_that_the_driver_does_not_know_is_said(bigrunner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml.fake_pynvml())
    monkeypatch.setattr(Gpu, "of", lambda device: Gpu("nvidia", "another GPU", uuid="another"))
    result = bigrunner.run("telemetry", config=QUICK)
    result.assert_finished()
    (event,) = result.events
    assert "reads no nvml: the driver does not know another GPU (asked for GPU-another, MIG-another)" in event.message


def test_a_gpu_that_gets_hot_is_an_event_and_a_section_of_the_report(
    bigrunner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml = fake_nvml.fake_pynvml()
    nvml.answers["nvmlDeviceGetCurrentClocksEventReasons"] = 0x4 | 0x20
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(Gpu, "of", lambda device: Gpu("nvidia", "a GPU", uuid=fake_nvml.UUID))
    report = Report()
    result = bigrunner.run("telemetry", config=QUICK, companions=[report, Takes(0.1)], steps=4)
    result.assert_finished()
    assert [event.facts["flag"] for event in result.events] == ["THERMAL", "POWER-CAP"]
    assert rows_of(result.directory)[-1]["flags"] == ["POWER-CAP", "THERMAL"]
    (section,) = report.sections
    assert (section["title"], section["status"]) == ("Hardware", "warn")
    assert "THERMAL began 1 times" in section["lines"]
    assert "held down, of all samples: power-cap 100.0%, sw-thermal 100.0%" in section["lines"]
    assert section["table"]["rows"][:2] == [
        ["temperature, °C", "71", "71", "71", "71"],
        ["power, W", "412", "412", "412", "412"],
    ]
    assert not nvml.is_open, "the library is shut down at the end"


class Report:
    """A health report: it declares the hook, and asks when the run ends."""

    class Hooks:
        @pluggy.HookspecMarker("bigrun")
        def health_section(self, run: Any) -> dict[str, Any]:
            """Asked by a health report."""

    def __init__(self) -> None:
        self.sections: list[dict[str, Any]] = []

    @hookimpl
    def configure_hooks(self, plugins: Any) -> None:
        plugins.add_hooks(self.Hooks)

    @hookimpl
    def on_finish(self, run: Any) -> None:
        self.sections = run.hook.health_section(run=run)


def test_without_a_gpu_the_section_has_the_run_and_the_host(bigrunner: Runner) -> None:
    report = Report()
    bigrunner.run("telemetry", config=QUICK, companions=[report, Takes(0.1)], steps=5).assert_finished()
    (section,) = report.sections
    assert section["status"] == "ok"
    assert section["table"]["rows"] == []
    names = [line.partition(":")[0] for line in section["lines"]]
    assert [name for name in names if not name.startswith("shares")] == [
        "memory of the host",
        "the last steps",
        "last checkpoint",
        "disk of the run",
    ]
    assert json.loads(json.dumps(section, allow_nan=False)) == section


def test_a_loss_term_that_begins_makes_steps_of_another_kind(bigrunner: Runner) -> None:
    class Begins:
        @hookimpl
        def loss_terms(self, step: int, outputs: Any) -> dict[str, torch.Tensor]:
            return {"late": 0 * outputs.global_features.patches.sum()} if step >= 4 else {}

    result = bigrunner.run("telemetry", config=QUICK, companions=[Takes(0.1), Begins()], steps=6)
    result.assert_finished()
    rows = rows_of(result.directory)
    assert [kinds for kinds, _ in itertools.groupby(row.get("kinds_of_steps") for row in rows)][-2:] == [1, 2]


def test_what_a_step_computes_is_known_by_sizes_terms_and_what_learns(bigrunner: Runner) -> None:
    """Other sizes are drawn for every step."""
    kinds: list[Any] = []

    class Look:
        @hookimpl
        def before_update(self, run: Any, step: int) -> None:
            kinds.append((kind_of_step(run, step), run.views.sizes_px(step), moved_bytes(run)))
            held = types.SimpleNamespace(init=types.SimpleNamespace(freeze_backbone_steps=2))
            fake = types.SimpleNamespace(metrics=run.metrics, views=run.views, config=held)
            assert (kind_of_step(fake, step) == kind_of_step(run, step)) == (step > 2)  # type: ignore[arg-type]

    views = {"sizes_px": [[32, 16], [16, 16]], "global_size_px": None, "local_size_px": None}
    result = bigrunner.run(companions=[Look()], steps=6, views=views)
    result.assert_finished()
    assert len({kind for kind, *_ in kinds}) == len({sizes for _, sizes, _ in kinds}) == 2
    assert all(moved > 0 for *_, moved in kinds)


@pytest.mark.slow
def test_steps_that_become_slow_are_an_event_and_steps_that_do_more_are_none(
    bigrunner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Minutes are tenths of seconds here, and half the speed is slow, for other processes are about. A loss term of
    another name comes with steps that take much longer."""
    monkeypatch.setattr(flags, "SLOW", 0.5)
    for name, value in (("MINUTE_SECONDS", 0.1), ("FIVE_MINUTES_SECONDS", 0.5), ("KNOWN_MINUTES", 4)):
        monkeypatch.setattr(usual, name, value)

    class Loads:
        def __init__(self, more: bool) -> None:
            self.more = more

        @hookimpl
        def loss_terms(self, step: int, outputs: Any) -> dict[str, torch.Tensor]:
            time.sleep(0.2 if step > 15 else 0.02)  # for each of two micro-batches
            name = "more" if step > 15 and self.more else "some"
            return {name: 0 * outputs.global_features.patches.sum()}

    found = {}
    for more in (False, True):
        result = bigrunner.run("telemetry", config=QUICK, companions=[Loads(more)], steps=19)
        result.assert_finished()
        found[more] = {event.facts["flag"] for event in result.events if event.kind == "telemetry-flag"}
    assert found == {False: {"SLOW"}, True: set()}


@pytest.mark.slow
def test_what_others_do_between_steps_is_told_apart(bigrunner: Runner) -> None:
    """An evaluation in `on_metrics` of every step, by a plugin that comes first or last."""

    class Evaluates:
        @hookimpl
        def on_metrics(self) -> None:
            time.sleep(0.2)

    for order in ([Evaluates()], [Evaluates(), Evaluates()]):
        result = bigrunner.run("telemetry", config=QUICK, companions=order, steps=5, run={"log_every_steps": 1})
        result.assert_finished()
        row = rows_of(result.directory)[-1]
        assert row["observe_fraction"] > 0.3
        assert row["step_max_ms"] < 200


def test_a_disk_that_refuses_rows_is_said_when_it_begins_and_ends(
    bigrunner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    full, refused, written, real = threading.Event(), threading.Event(), threading.Event(), Rows.add

    def add(self: Rows, line: str) -> None:
        if full.is_set():
            refused.set()
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, line)
        written.set()

    def fill(run: Any) -> None:
        full.set()
        assert refused.wait(30)

    def make_room(run: Any) -> None:
        full.clear()
        written.clear()
        assert written.wait(30)

    monkeypatch.setattr(Rows, "add", add)
    result = bigrunner.run("telemetry", config=QUICK, companions=[Call(2, fill), Call(5, make_room)], steps=6)
    result.assert_finished()
    assert [(event.kind, event.level) for event in result.events] == [
        ("telemetry-degraded", "error"),
        ("telemetry-recovered", "warning"),
    ]
    assert "No space left on device" in result.events[0].message
    assert rows_of(result.directory)


def test_a_defect_of_telemetry_costs_telemetry_and_not_the_run(
    bigrunner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defect(now: Any, limits: Any) -> Any:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(flags, "hung", defect)
    plain = bigrunner.run(steps=4)
    result = bigrunner.run("telemetry", config=QUICK, companions=[Takes(0.1)], steps=4)
    assert (result.exit_code, result.quarantined) == (ExitCode.QUARANTINED, ["telemetry"])
    assert result.losses == plain.losses
    failures = [event for event in result.events if event.kind == "observer-failed"]
    assert ["a defect" in event.message for event in failures] == [True]


def test_allocator_counters_are_read_by_the_runs_thread_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    stats = {"allocated_bytes.all.current": 3, "reserved_bytes.all.current": 4, "num_alloc_retries": 1, "num_ooms": 0}
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: stats)
    assert read_allocator(torch.device("cpu")) == Sample()
    assert read_allocator(torch.device("cuda", 0)) == Sample(
        torch_allocated_bytes=3, torch_reserved_bytes=4, torch_alloc_retries=1, torch_ooms=0
    )


def test_the_sampling_thread_never_calls_torch(bigrunner: Runner) -> None:
    """No CUDA call, no synchronisation: its modules do not even have torch. Neither have the threads in which sources
    are read and rows are written."""
    calls: set[str] = set()
    names: set[str] = set()

    def trace(frame: Any, event: str, argument: Any) -> None:
        name = threading.current_thread().name
        if not name.startswith("telemetry"):  # a checkpoint that is being written
            return
        names.add(name)
        module = frame.f_globals.get("__name__", "")
        if event == "c_call":  # of what is written in C the function says it, or what it is bound to
            module = getattr(argument, "__module__", None) or type(getattr(argument, "__self__", None)).__module__
        if module == "torch" or module.startswith("torch."):
            calls.add(f"{module}.{getattr(argument, '__name__', frame.f_code.co_name)}")

    threading.setprofile(trace)
    try:
        bigrunner.run("telemetry", config=QUICK, companions=[Takes(0.1)], steps=3).assert_finished()
    finally:
        threading.setprofile(None)
    assert {"telemetry", "telemetry-host", "telemetry-disk"} <= names
    assert calls == set()


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("interval_seconds", 0.0, "expected more than 0, up to 30, got 0.0"),
        ("interval_seconds", 31.0, "expected more than 0, up to 30, got 31.0"),
        ("keep_gib", 0.01, "expected at least 0.1, got 0.01"),
        ("hot_celsius", 0.0, "expected more than 0, got 0.0"),
    ],
)
def test_options_out_of_range_are_refused(bigrunner: Runner, option: str, value: float, said: str) -> None:
    result = bigrunner.run("telemetry", config={option: value})
    assert isinstance(result.error, ConfigError)
    assert f"plugins.telemetry.{option}: {said}" in str(result.error)
