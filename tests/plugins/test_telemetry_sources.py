"""Sources of telemetry together: which is believed, and what becomes of one that goes away."""

from __future__ import annotations

import importlib
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hardware import fake_nvml, trees

from bigrun.events import Event
from bigrun_telemetry import source as source_module
from bigrun_telemetry.gpu import Gpu
from bigrun_telemetry.reader import Missing, Reader, Unavailable
from bigrun_telemetry.sample import Sample
from bigrun_telemetry.source import FIRST_SECONDS, LONGEST_SECONDS
from bigrun_telemetry.sources import Sources, openers

NVIDIA = Gpu("nvidia", "NVIDIA GeForce RTX 4090", uuid=fake_nvml.UUID, pci_address="0000:01:00.0")
TICK_SECONDS = 10
FAN, CLOCK = Sample(fan_rpm=5.0), Sample(gpu_clock_mhz=1.0)


class Scripted:
    """A reader that does what it is told."""

    def __init__(self, name: str, *answers: Sample | BaseException) -> None:
        self.name, self.answers, self.reads, self.closed = name, list(answers), 0, 0

    def read(self) -> Sample:
        self.reads += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def close(self) -> None:
        self.closed += 1


class Watch:
    """Sources on a clock of the test's own, sampled every ten seconds."""

    def __init__(self, opened: dict[str, Callable[[], Reader]]) -> None:
        self.now, self.told = 0.0, list[tuple[float, Event]]()
        self.sources = Sources(opened, lambda event: self.told.append((self.now, event)), lambda: self.now)

    def ticks(self, seconds: float) -> list[Sample]:
        samples = []
        for _ in range(round(seconds / TICK_SECONDS)):
            self.now += TICK_SECONDS
            samples.append(self.sources.read())
        return samples

    @property
    def states(self) -> list[tuple[float, str]]:
        return [(now, event.facts["state"]) for now, event in self.told]


def watch(*readers: Scripted) -> Watch:
    return Watch({reader.name: lambda reader=reader: reader for reader in readers})


def test_sysfs_comes_first_on_an_apu_alone(tmp_path: Path) -> None:
    assert list(openers(trees.STRIX_HALO, tmp_path)) == ["sysfs", "amdsmi", "host"]
    assert list(openers(trees.DISCRETE, tmp_path)) == ["amdsmi", "sysfs", "host"]
    assert list(openers(NVIDIA, tmp_path)) == ["nvml", "host"]
    assert list(openers(None, tmp_path)) == ["host"]


def test_the_first_source_that_knows_is_believed() -> None:
    first, second = Sample(gpu_power_watts=1.0), Sample(gpu_power_watts=2.0, gpu_clock_mhz=3.0)
    watched = watch(Scripted("first", first), Scripted("second", second))
    assert watched.ticks(10) == [Sample(gpu_power_watts=1.0, gpu_clock_mhz=3.0)]
    assert watched.told == []


# -- one that goes away ---------------------------------------------------------------------------------------------


def test_one_failed_answer_is_no_loss_for_ever() -> None:
    shaky = Scripted("shaky", CLOCK, KeyError("gone"), CLOCK)
    watched = watch(shaky, Scripted("good", FAN))
    both = Sample(gpu_clock_mhz=1.0, fan_rpm=5.0)
    assert watched.ticks(50) == [both, FAN, both, both, both]
    assert watched.states == [(20, "lost"), (30, "back")]
    (_, lost), (_, back) = watched.told
    assert (lost.kind, lost.level) == ("telemetry-source", "warning")
    assert lost.facts == {"source": "shaky", "state": "lost"}
    assert "KeyError: 'gone'; it is asked again" in lost.message
    assert (back.level, back.message) == ("info", "telemetry reads shaky again, after 10 s")
    assert shaky.closed == 1, "what failed is opened anew"
    watched.sources.close()
    assert shaky.closed == 2


def test_one_that_stays_away_is_asked_ever_less_often_and_said_once() -> None:
    broken = Scripted("broken", OSError("no such device"))
    watched = watch(broken, Scripted("good", FAN))
    watched.ticks(10)
    asked = []
    for _ in range(720):
        before = broken.reads
        watched.ticks(10)
        asked += [watched.now] if broken.reads > before else []
    gaps = [b - a for a, b in zip([10, *asked], asked, strict=False)]
    assert gaps[:6] == [FIRST_SECONDS * 2**n for n in range(6)]
    assert set(gaps[6:]) == {LONGEST_SECONDS}
    assert watched.states == [(10, "lost")]


def test_one_that_comes_and_goes_is_few_events_an_hour() -> None:
    flapping = Scripted("flapping", *[CLOCK, CLOCK, OSError("gone")] * 360, CLOCK)
    watched = watch(flapping)
    watched.ticks(3600)
    assert 2 <= len(watched.states) <= 30
    flapping.answers = [CLOCK]
    watched.ticks(2 * LONGEST_SECONDS)
    flapping.answers, at = [OSError("gone"), CLOCK], watched.now
    watched.ticks(60)
    assert watched.states[-2:] == [(at + 10, "lost"), (at + 10 + FIRST_SECONDS, "back")], "it was well for long"


def test_a_late_answer_is_no_loss_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "READ_SECONDS", 0.05)
    answers = threading.Event()

    class Hanging(Scripted):
        def read(self) -> Sample:
            answers.wait(30)
            return super().read()

    hanging, opened = Hanging("hanging", CLOCK), list[int]()

    def open_it() -> Reader:
        opened.append(1)
        return hanging

    watched = Watch({"hanging": open_it, "good": lambda: Scripted("good", FAN)})
    began = time.monotonic()
    assert watched.ticks(30) == [FAN] * 3
    assert time.monotonic() - began < 5
    assert "TimeoutError: did not answer within 0.05 s" in watched.told[0][1].message
    watched.sources.close()
    assert hanging.closed == 0, "its library is still at work"
    assert len([thread for thread in threading.enumerate() if thread.name == "telemetry-hanging"]) == 1
    answers.set()
    for thread in threading.enumerate():
        if thread.name == "telemetry-hanging":
            thread.join()
    assert watched.ticks(40)[-1] == Sample(gpu_clock_mhz=1.0, fan_rpm=5.0)
    assert [state for _, state in watched.states] == ["lost", "back"]
    assert len(opened) == 1, "what came late is used"


def test_a_driver_that_is_loaded_again_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = fake_nvml.fake_pynvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    watched = Watch({"nvml": openers(NVIDIA, Path())["nvml"]})
    assert watched.ticks(10)[0].gpu_clock_mhz == 2520
    nvml.answers["nvmlDeviceGetPowerUsage"] = fake_nvml.NVMLErrorGpuIsLost("GPU is lost")
    watched.ticks(20)
    nvml.init_error = fake_nvml.NVMLErrorLibraryNotFound("NVML Shared Library Not Found")
    del nvml.answers["nvmlDeviceGetPowerUsage"]
    watched.ticks(120)
    assert not nvml.is_open
    nvml.init_error = None
    assert watched.ticks(LONGEST_SECONDS)[-1].gpu_clock_mhz == 2520
    assert [state for _, state in watched.states] == ["lost", "back"]
    watched.sources.close()
    assert not nvml.is_open


# -- one that was never there ---------------------------------------------------------------------------------------


def test_a_driver_that_comes_later_is_read() -> None:
    tries: list[float] = []

    def late() -> Reader:
        tries.append(watched.now if tries else 0.0)
        if len(tries) < 4:
            raise Unavailable("the driver does not answer (yet)")
        return Scripted("late", CLOCK)

    watched: Any = None
    watched = Watch({"late": late, "good": lambda: Scripted("good", FAN)})
    assert watched.sources.names == ["good"]
    watched.ticks(120)
    assert watched.states == [(0, "missing"), (70, "back")]
    assert "reads no late: the driver does not answer (yet). What is read: good" in watched.told[0][1].message


def test_what_is_not_installed_is_not_looked_for_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tries: list[str] = []
    real = importlib.import_module

    def absent(name: str, *more: Any) -> Any:
        if name == "pynvml":
            tries.append(name)
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *more)

    monkeypatch.setattr(importlib, "import_module", absent)
    watched = Watch(openers(NVIDIA, tmp_path))
    assert watched.sources.names == ["host"]
    watched.ticks(3600)
    assert len(tries) == 1
    ((_, event),) = watched.told
    assert "reads no nvml: nvidia-ml-py is not installed" in event.message
    assert event.message.endswith("What is read: host")
    assert event.facts == {"source": "nvml", "state": "missing"}


def test_a_library_that_raises_anything_is_said() -> None:
    def broken() -> Any:
        raise ZeroDivisionError("anything")

    watched = Watch({"broken": broken})
    assert watched.ticks(10) == [Sample()]
    assert "ZeroDivisionError: anything" in watched.told[0][1].message
    assert issubclass(Missing, Unavailable)


def test_a_driver_that_hangs_at_the_start_does_not_hold_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "READ_SECONDS", 0.05)
    opens, over = threading.Event(), threading.Event()

    def hanging() -> Reader:
        opens.wait(30)
        over.set()
        return Scripted("hanging", CLOCK)

    began = time.monotonic()
    watched = Watch({"hanging": hanging})
    assert time.monotonic() - began < 5
    assert "did not answer within 0.05 s" in watched.told[0][1].message
    opens.set()
    assert over.wait(30)
