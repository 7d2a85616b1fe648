"""What a run computes on: facts, choice, and what was set."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from typed import Typed

from bigrun.devices import CpuFacts, DeviceFacts, Setting, TorchBuild, torch_build
from bigrun.devices.choose import refusal
from bigrun.devices.host import memory_bytes, read_cpu, read_host
from bigrun.devices.limits import usable_cores
from bigrun.devices.linux import kernel_problems
from bigrun.devices.memory import DeviceMemory, read_memory
from bigrun.devices.read import read_driver, read_facts
from bigrun.devices.setting import settings_table
from bigrun.devices.torch_build import assigned
from bigrun.devices.warnings import device_warnings, is_built_for
from bigrun.parallel import default_workers
from bigrun.sections import Hardware
from bigrun.testing.devices import DEVICES, device

GIB = 2**30


# -- facts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DEVICES)
def test_facts_are_json_and_come_back(name: str) -> None:
    assert DeviceFacts.from_facts(json.loads(json.dumps(DEVICES[name].as_facts()))) == DEVICES[name]


def test_facts_that_are_missing_or_unknown_are_refused() -> None:
    facts = DEVICES["cpu"].as_facts()
    with pytest.raises(TypeError, match="colour"):
        DeviceFacts.from_facts(facts | {"colour": "black"})
    with pytest.raises(TypeError, match="arch"):
        DeviceFacts.from_facts({key: value for key, value in facts.items() if key != "arch"})


def test_the_facts_of_this_machine_agree_with_the_system(tmp_path: Path) -> None:
    facts = read_facts(torch.device("cpu"), tmp_path / "not" / "there")
    host = facts.host
    assert (facts.backend, facts.arch, facts.is_gpu) == ("cpu", os.uname().machine, False)
    assert facts.torch.version == torch.__version__
    assert 1 <= host.cpu.usable_cores <= len(os.sched_getaffinity(0))
    assert (
        GIB / 8
        < host.ram_free_bytes
        <= host.ram_total_bytes
        <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    )
    assert host.disk_free_bytes is not None
    status = os.statvfs(tmp_path)
    assert abs(host.disk_free_bytes - status.f_bavail * status.f_frsize) < GIB


def test_capabilities_are_those_of_nvidia_only() -> None:
    assert device("rtx4090").capability == (8, 9)
    assert device("rtx5090").capability == (12, 0)
    assert device("gfx942").capability is device("cpu").capability is None


def tree(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


MEMINFO = "MemTotal:       24684000 kB\nMemFree:         1000000 kB\nMemAvailable:   20000000 kB\n"


def test_the_limit_of_a_container_counts(tmp_path: Path) -> None:
    tree(tmp_path, proc__meminfo=MEMINFO)
    assert memory_bytes(tmp_path) == (24684000 * 1024, 20000000 * 1024)
    tree(tmp_path, proc__self__cgroup="0::/job/step\n")
    cgroup = tmp_path / "sys/fs/cgroup/job"
    cgroup.mkdir(parents=True)
    (cgroup / "memory.max").write_text("max\n")
    assert memory_bytes(tmp_path) == (24684000 * 1024, 20000000 * 1024)
    (cgroup / "memory.max").write_text(f"{8 * GIB}\n")
    (cgroup / "memory.current").write_text(f"{3 * GIB}\n")
    assert memory_bytes(tmp_path) == (8 * GIB, 5 * GIB)
    (cgroup / "memory.stat").write_text(f"anon {GIB}\ninactive_file {2 * GIB}\n")  # which the kernel gives back
    assert memory_bytes(tmp_path) == (8 * GIB, 7 * GIB)
    (cgroup / "memory.max").write_text(f"{1024 * GIB}\n")
    assert memory_bytes(tmp_path) == (24684000 * 1024, 20000000 * 1024)


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", 8), ("1600000 100000", 8), ("250000 100000", 2), ("50000 100000", 1), ("300000 100000", 3)],
)
def test_the_time_that_a_container_leaves_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    tree(tmp_path, proc__self__cgroup="0::/\n")
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text(f"{quota}\n")
    assert usable_cores(tmp_path) == read_cpu(tmp_path).usable_cores == expected


def test_what_decodes_and_what_is_advised_follow_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr("bigrun.devices.limits.cpu_limit", lambda root: 2.0)
    assert default_workers(10**6) == 2


# -- memory of a GPU ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("is_unified", "hip", "available", "expected"),
    [
        (False, None, 20 * GIB, DeviceMemory(24 * GIB, GIB)),
        (True, "7.1", 20 * GIB, DeviceMemory(24 * GIB, GIB)),  # the driver counts what GPUs have taken
        (True, None, 20 * GIB, DeviceMemory(24 * GIB, 20 * GIB, counts_host=True)),
        (True, None, GIB // 2, DeviceMemory(24 * GIB, GIB, counts_host=True)),
        (True, None, 100 * GIB, DeviceMemory(24 * GIB, 24 * GIB, counts_host=True)),
        (True, None, None, DeviceMemory(24 * GIB, GIB, counts_host=True)),  # a system that does not say
    ],
)
def test_copies_of_files_are_free_memory_where_the_host_shares_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_unified: bool,
    hip: str | None,
    available: int | None,
    expected: DeviceMemory,
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (GIB, 24 * GIB))
    monkeypatch.setattr(torch.version, "hip", hip)
    if available is not None:
        tree(tmp_path, proc__meminfo=f"MemTotal: 25000000 kB\nMemAvailable: {available // 1024} kB\n")
    assert read_memory(torch.device("cuda", 0), is_unified=is_unified, root=tmp_path) == expected


# -- the kernel -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "release", "told"),
    [
        ("gfx1151", "6.14.0-33-generic", "before 6.18.4"),
        ("gfx1151", "6.17.0-8-generic", None),
        ("gfx1151", "6.17.0-8-custom", "before 6.18.4"),
        ("gfx1151", "6.18.3-arch1-1", "before 6.18.4"),
        ("gfx1151", "6.18.4", None),
        ("gfx1151", "7.0.0-1-generic", "300 times slower"),
        ("gfx1151", "7.0.1", None),
        ("gfx1100", "6.8.0-60-generic", None),
        ("gfx1151", "6", "before 6.18.4"),
    ],
)
def test_versions_of_linux_that_are_bad_for_a_gpu(arch: str, release: str, told: str | None) -> None:
    messages = [problem.message for problem in kernel_problems(arch, release)]
    assert len(messages) == (told is not None)
    assert all((told or "") in message for message in messages)


def test_a_processor_is_known_by_its_flags(tmp_path: Path) -> None:
    text = "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 avx512f avx512_bf16\n"
    cpu = read_cpu(tree(tmp_path, proc__cpuinfo=text))
    assert (cpu.name, cpu.features, cpu.has_fast_bf16) == ("Some CPU", ("avx512_bf16", "avx512f", "avx2"), True)
    assert not attrs.evolve(cpu, features=("avx512f", "avx2")).has_fast_bf16
    arm = read_cpu(tree(tmp_path / "arm", proc__cpuinfo="processor\t: 0\nFeatures\t: fp asimd bf16\n"))
    assert (arm.name, arm.has_fast_bf16) == (None, True)


def test_a_machine_that_says_nothing_has_no_memory_and_no_name(tmp_path: Path) -> None:
    host = read_host(root=tmp_path)
    assert (host.ram_total_bytes, host.ram_free_bytes, host.disk_free_bytes, host.cpu.name) == (0, 0, None, None)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.163.01  Tue Apr  8 12:41:17 UTC 2025\n", "550.163.01"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build\n", "580.95.05"),
        ("something else\n", None),
    ],
)
def test_the_driver_of_nvidia(tmp_path: Path, text: str, version: str | None) -> None:
    assert read_driver(is_rocm=False, root=tree(tmp_path, proc__driver__nvidia__version=text)) == version


def test_the_driver_of_amd(tmp_path: Path) -> None:
    assert read_driver(is_rocm=True, root=tmp_path) is None
    assert read_driver(is_rocm=True, root=tree(tmp_path, sys__module__amdgpu__version="6.12.12\n")) == "6.12.12"


# -- torch ------------------------------------------------------------------------------------------------------


def test_the_build_of_torch_is_known_without_importing_it() -> None:
    program = (
        "import sys; from bigrun.devices import torch_build; b = torch_build(); assert 'torch' not in sys.modules; "
        "print(b.version, b.cuda, b.hip)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(torch.__version__), str(torch.version.cuda), str(torch.version.hip)]
    assert torch_build().release >= (2, 10)


def test_the_lines_of_version_py() -> None:
    text = (
        "__version__ = '2.13.0+rocm7.1'\ndebug = False\ncuda: Optional[str] = None\n"
        "hip: Optional[str] = '7.1.52802-26aae437f6'\nrocm: Optional[str] = '7.1.1'\n"
    )
    assert assigned(text, "__version__") == "2.13.0+rocm7.1"
    assert assigned(text, "cuda") is None
    assert assigned(text, "hip") == "7.1.52802-26aae437f6"
    build = TorchBuild("2.13.0+rocm7.1", hip="7.1.52802")
    assert (build.release, build.backend) == ((2, 13), "rocm")
    assert str(build) == "2.13.0+rocm7.1 for ROCm 7.1.52802"


# -- choice -----------------------------------------------------------------------------------------------------

CPU, CUDA, ROCM = TorchBuild("2.13.0+cpu"), TorchBuild("2.13.0", cuda="13.0"), TorchBuild("2.13.0", hip="7.1")


@pytest.mark.parametrize(
    ("wish", "build", "available", "text"),
    [
        ("cuda", CUDA, True, None),
        ("rocm", ROCM, True, None),
        ("cuda", ROCM, True, "is built for ROCm: install another .* or set hardware.device = 'rocm' or 'auto'"),
        ("rocm", CUDA, True, "is built for CUDA: .*whl/rocm.* or set hardware.device = 'cuda' or 'auto'"),
        ("rocm", CPU, False, "is built for the CPU alone: .* or set hardware.device = 'cpu' or 'auto'"),
        ("cuda", CUDA, False, "sees no GPU: check its driver .*nvidia-smi.* or set hardware.device = 'auto' or 'cpu'"),
        ("rocm", ROCM, False, "sees no GPU: check its driver .*rocminfo"),
    ],
)
def test_a_request_that_cannot_be_met_says_why(wish: str, build: TorchBuild, available: bool, text: str | None) -> None:
    problem = refusal(wish, build, available=available)
    if text is None:
        assert problem is None
    else:
        assert re.search(text, problem or "")


def test_the_device_of_the_command_line_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = Typed(tmp_path, monkeypatch, hardware={"device": "rocm"})
    assert typed.type("check", "tiny.toml").code == 2
    done = typed.type("check", "tiny.toml", "--device", "cpu")
    assert done.code == 0, done.said
    done = typed.train("--device", "rocm")
    assert done.code == 2
    assert "hardware.device = 'rocm', but torch" in done.said
    assert not typed.run.exists()


# -- warnings ---------------------------------------------------------------------------------------------------


def test_bf16_on_a_processor_without_it_is_warned_of() -> None:
    slow = attrs.evolve(
        device("cpu"), host=attrs.evolve(device("cpu").host, cpu=CpuFacts("old", "x86_64", 2, 2, ("avx2",)))
    )
    (line,) = device_warnings(Hardware(), slow)
    assert "hardware.precision = 'fp32'" in line
    assert list(device_warnings(Hardware(precision="fp32"), slow)) == []
    assert list(device_warnings(Hardware(), device("cpu"))) == []


def test_a_build_without_kernels_for_the_chip_is_warned_of() -> None:
    for name, facts in DEVICES.items():
        assert list(device_warnings(Hardware(), facts)) == [], name
    old = attrs.evolve(device("gfx1151-b"), built_for=("gfx90a", "gfx942"))
    (line,) = device_warnings(Hardware(), old)
    assert "no kernels for gfx1151" in line


@pytest.mark.parametrize(
    ("arch", "built_for", "expected"),
    [
        ("sm_89", ("sm_80", "sm_86"), True),
        ("sm_86", ("sm_80", "sm_89"), True),
        ("sm_80", ("sm_86",), False),
        ("sm_120", ("sm_90", "sm_100"), False),
        ("gfx1151", ("gfx1150",), False),
        ("gfx1151", ("gfx1151",), True),
    ],
)
def test_kernels_of_nvidia_run_on_later_chips_of_a_major_version(
    arch: str, built_for: tuple[str, ...], expected: bool
) -> None:
    assert is_built_for(arch, built_for) is expected


# -- settings ---------------------------------------------------------------------------------------------------

PLUGIN = """
import os, sys
from bigrun import hookimpl
from bigrun.devices import Setting


class Tuning:
    @hookimpl
    def configure_runtime(self, run):
        assert "torch" not in sys.modules, "it would not be heard any more"
        assert not hasattr(run, "facts")
        os.environ["BIGRUN_TEST_SETTING"] = "on"

    @hookimpl
    def configure_device(self, run):
        assert not hasattr(run, "dataset")
        assert run.facts.backend == "cpu"
        run.record_setting(Setting("BIGRUN_TEST_SETTING", None, "on", True, "read back"))
        run.record_setting(Setting("allocator", "native", "magic", False, "there is no such allocator"))
        run.record_setting(Setting("kernels", "default", "mine", None, "the library does not say", is_custom=True))
"""


@pytest.mark.slow
def test_settings_are_in_the_header_in_the_records_and_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = Typed(tmp_path, monkeypatch, run={"max_steps": 2})
    (tmp_path / "tuning.py").write_text(PLUGIN)
    words = [sys.executable, "-m", "bigrun", "run", "tiny.toml", "--plugin", "tuning:Tuning"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    rows = [line.split(maxsplit=1)[1] for line in done.stdout.splitlines() if line.startswith("setting ")]
    assert [row.split()[0] for row in rows] == ["setting", "BIGRUN_TEST_SETTING", "allocator", "kernels"]
    assert "NO" in rows[2]
    assert "custom" in rows[3]
    (event,) = typed.events("setting-without-effect")
    assert event["level"] == "warning"
    assert "allocator = magic had no effect: there is no such allocator" in event["message"]
    (start,) = json.loads((typed.run / "provenance.json").read_text())["starts"]
    assert [row["name"] for row in start["settings"]] == ["BIGRUN_TEST_SETTING", "allocator", "kernels"]
    assert [row["took_effect"] for row in start["settings"]] == [True, False, None]
    facts: dict[str, Any] = start["hardware"]["facts"]
    assert DeviceFacts.from_facts(facts).backend == "cpu"


def test_no_settings_no_table() -> None:
    assert settings_table([]) == []
    (_, row) = settings_table([Setting("a", None, "1", True, "read back")])
    assert row.split() == ["a", "-", "1", "yes", "read", "back"]


# -- defaults for a device --------------------------------------------------------------------------------------

DEFAULTS = """
from bigrun import hookimpl


class Tuning:
    @hookimpl
    def hardware_defaults(self, run):
        assert run.facts.backend == "cpu"
        return {answers!r}
"""


def chosen(typed: Typed, answers: dict[str, tuple[Any, str]], *words: str, name: str = "chosen") -> Any:
    (typed.folder / f"{name}.py").write_text(DEFAULTS.format(answers=answers))
    return typed.type("check", "tiny.toml", "--plugin", f"{name}:Tuning", *words)


def test_what_nobody_has_set_is_chosen_for_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = Typed(tmp_path, monkeypatch)
    answers = {"data.micro_batch": (2, "fits"), "data.workers": (7, "seven cores"), "data.prefetch": (3, "as many")}
    done = chosen(typed, answers)
    assert done.code == 0, done.said
    assert "effective 4 = micro 2 x accumulate 2" in done.said
    assert "data.micro_batch = 2 (fits)" in done.said
    assert "data.prefetch = 3 (as many)" in done.said
    assert "seven cores" not in done.said  # the preset says 0
    done = chosen(typed, answers, "--set", "data.micro_batch=1", name="again")
    assert "effective 4 = micro 1 x accumulate 4" in done.said
    assert "(fits)" not in done.said


def test_a_micro_batch_above_the_default_of_the_effective_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = Typed(tmp_path, monkeypatch, data={"effective_batch": 256})
    done = chosen(typed, {"data.micro_batch": (128, "fits")}, name="large")
    assert done.code == 0, done.said
    assert "effective 256 = micro 128 x accumulate 2" in done.said


def test_a_run_trains_as_chosen_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = Typed(tmp_path, monkeypatch, run={"max_steps": 2})
    (tmp_path / "goes_on.py").write_text(DEFAULTS.format(answers={"data.micro_batch": (2, "fits")}))
    words = ("--plugin", "goes_on:Tuning")
    assert typed.train(*words, "--set", "run.max_steps=1").code == 0
    assert typed.train(*words).code == 0
    assert "micro_batch = 2" in (typed.run / "config.toml").read_text()


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"model.depth": (3, "deep")}, "model.depth: may not depend on the device; those that may: data.micro_batch"),
        ({"data.micro_batch": (3, "odd")}, "data.micro_batch: 3 does not divide effective_batch = 4"),
        ({"data.micro_batch": ("3", "a word")}, "data.micro_batch: expected int or off, got '3'"),
        ({"hardware.activation_checkpointing": ("some", "?")}, "hardware.activation_checkpointing: expected"),
    ],
)
def test_a_value_that_cannot_be_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: dict[str, tuple[Any, str]], message: str
) -> None:
    done = chosen(Typed(tmp_path, monkeypatch), answers, name=f"bad{abs(hash(message))}")
    assert done.code == 2
    assert message in done.said


def test_an_answer_of_another_form_is_the_plugins_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = Typed(tmp_path, monkeypatch)
    (tmp_path / "wrong.py").write_text(DEFAULTS.format(answers={"data.workers": 3}))
    done = typed.type("check", "tiny.toml", "--plugin", "wrong:Tuning")
    assert done.code == 1
    assert "wrong:Tuning failed in hardware_defaults" in done.said
