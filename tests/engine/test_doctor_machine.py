"""What `bigrun doctor` says of versions, machine, driver and device: over recorded texts, and facts of devices that are
not here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import attrs
import pytest
from packaging.requirements import Requirement

from bigrun.devices import TorchBuild
from bigrun.devices.limits import cpu_limit, memory_limit
from bigrun.doctor.bandwidth import MEMORY_GBPS, link_gbps
from bigrun.doctor.clock import TIME_ERROR, clock_rows, disk_clock_row, synchronised_row
from bigrun.doctor.device import bf16_row, device_row, kernel_row
from bigrun.doctor.driver import judge_driver
from bigrun.doctor.extras import extra_rows, extras_of, import_problem
from bigrun.doctor.machine import (
    cores_row,
    file_row,
    load_row,
    machine_rows,
    memory_file_rows,
    ram_rows,
    shared_memory_row,
)
from bigrun.doctor.memory import memory_rows, others
from bigrun.doctor.present import Present, gpu_rows, judge_build, present_gpus
from bigrun.doctor.row import Row
from bigrun.doctor.speed import expected_speed
from bigrun.doctor.subject import Subject
from bigrun.doctor.versions import dependency_rows, problem_of, python_row, requirements_of, version_rows
from bigrun.planner.gpus import GPUS
from bigrun.testing.devices import CUDA, DEVICES, ROCM, device

GB = 10**9
CPU = TorchBuild("2.13.0+cpu")


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


# -- versions ---------------------------------------------------------------------------------------------------


def test_what_is_installed_here_is_as_needed() -> None:
    rows = {row.name: row for row in version_rows(Subject())}
    assert [rows[name].verdict for name in ("Python", "torch", "dependencies")] == ["ok"] * 3
    assert "gram-anchoring" in rows["plugins"].found
    assert {"torch", "pluggy"} <= {requirement.name for requirement in requirements_of("bigrun")}
    assert [requirement.name for requirement in requirements_of("bigrun", "xformers")] == ["xformers"]


def test_what_is_missing_or_too_old_fails() -> None:
    assert python_row("3.10.9", ">=3.11").verdict == "fail"
    assert python_row("3.13.0rc1", ">=3.11").verdict == "ok"
    assert problem_of(Requirement("attrs>=99")) is not None
    torch, rest = dependency_rows([Requirement("torch>=99"), Requirement("not-there>=1"), Requirement("attrs>=23")])
    assert (torch.verdict, torch.expected) == ("fail", ">=99")
    assert torch.remedy is not None
    assert "pip install --upgrade 'torch>=99'" in torch.remedy
    assert (rest.verdict, rest.found) == ("fail", "not-there is missing")


def test_extras_are_facts_unless_what_is_there_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"ct", "demo"} <= set(extras_of("bigrun"))
    assert not {"test", "dev"} & set(extras_of("bigrun"))
    assert all(row.verdict in ("ok", "info") for row in extra_rows(Subject(is_quick=True)))
    files = {
        "their_plugin-2.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: their-plugin\nVersion: 2.0\n"
        "Provides-Extra: gpu\nRequires-Dist: broken_library>=1; extra == 'gpu'\n"
        "Requires-Dist: not_there; extra == 'gpu'\n",
        "their_plugin-2.0.dist-info/entry_points.txt": "[bigrun]\ntheirs = their_plugin:Theirs\n",
        "broken_library-1.5.dist-info/METADATA": "Metadata-Version: 2.1\nName: broken_library\nVersion: 1.5\n",
        "broken_library-1.5.dist-info/RECORD": "broken_library/__init__.py,,\n",
        "broken_library/__init__.py": "raise KeyError('libamd_smi.so')\n",
    }
    monkeypatch.syspath_prepend(tree(tmp_path, files))
    assert import_problem("broken_library") == "broken_library 1.5 cannot be imported: KeyError: 'libamd_smi.so'"
    assert import_problem("attrs") is None
    quick = [row for row in extra_rows(Subject(is_quick=True)) if row.name == "extra gpu"]
    assert [(row.verdict, row.found) for row in quick] == [
        ("info", "broken_library 1.5; not installed: not_there (pip install 'their-plugin[gpu]')")
    ]
    monkeypatch.setattr("bigrun.doctor.extras.extras_of", lambda name: ["gpu"] if name == "their-plugin" else [])
    (slow,) = extra_rows(Subject())
    assert slow.verdict == "warn"
    assert "libamd_smi.so" in slow.found


# -- the machine ------------------------------------------------------------------------------------------------


def test_every_row_of_this_machine(tmp_path: Path) -> None:
    names = [row.name for row in machine_rows(Subject(tmp_path))]
    assert {"system", "processor", "usable processors", "load", "memory", "/dev/shm", "open files"} <= set(names)
    assert [row.verdict for row in memory_file_rows(Subject(tmp_path))] == ["ok"]


@pytest.mark.parametrize(
    ("files", "cpus", "memory"),
    [
        ({}, None, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None, None),
        (
            {
                "proc/self/cgroup": "0::/\n",
                "sys/fs/cgroup/cpu.max": "250000 100000\n",
                "sys/fs/cgroup/memory.max": "8000000000\n",
            },
            2.5,
            8 * GB,
        ),
        (  # of Slurm: the limit is that of a group around this one
            {
                "proc/self/cgroup": "0::/job_7/step_0\n",
                "sys/fs/cgroup/job_7/cpu.max": "400000 100000\n",
                "sys/fs/cgroup/job_7/memory.max": "64000000000\n",
                "sys/fs/cgroup/job_7/step_0/memory.max": "max\n",
            },
            4.0,
            64 * GB,
        ),
        (  # version 1, in a container that shows the host's paths
            {
                "proc/self/cgroup": "5:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "150000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "4000000000\n",
            },
            1.5,
            4 * GB,
        ),
        (
            {
                "proc/self/cgroup": "5:memory:/\n3:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            None,
            None,
        ),
    ],
)
def test_limits_of_a_control_group(tmp_path: Path, files: dict[str, str], cpus: float | None, memory: int) -> None:
    root = tree(tmp_path, files)
    assert cpu_limit(root) == cpus
    limit = memory_limit(root)
    assert (None if limit is None else limit.bytes) == memory


def test_less_time_than_processors_is_a_warning() -> None:
    cpu = attrs.evolve(device("cpu").host.cpu, cores=32, usable_cores=16)
    assert cores_row(cpu, None).verdict == cores_row(cpu, 16.0).verdict == "ok"
    row = cores_row(cpu, 2.5)
    assert (row.verdict, row.found) == ("warn", "16 of 32, time for 2.5")
    assert "hardware.threads = 2" in str(row.remedy)


def test_memory_of_the_machine() -> None:
    assert [row.verdict for row in ram_rows(64 * GB, 50 * GB, None)] == ["ok"]
    assert [row.verdict for row in ram_rows(64 * GB, 10 * GB, None)] == ["warn"]
    (_, row) = ram_rows(16 * GB, 10 * GB, 16 * GB)
    assert (row.verdict, row.found) == ("info", "16 GB for this process's group")


def test_load_open_files_and_shared_memory(tmp_path: Path) -> None:
    assert load_row("0.42 0.30 0.20 1/300 4242\n", 8).verdict == "ok"
    assert load_row("5.20 0.30 0.20 1/300 4242\n", 8).verdict == "warn"
    assert load_row("", 8).verdict == "info"
    assert file_row(1024, 4096).verdict == file_row(-1, -1).verdict == "ok"
    assert "as root" not in str(file_row(256, 4096).remedy)
    assert "as root" in str(file_row(256, 512).remedy)
    row = shared_memory_row(Subject(root=tmp_path))
    assert (row.verdict, row.found) == ("warn", "not to be had: No such file or directory")


def test_clocks(tmp_path: Path) -> None:
    assert synchronised_row(0).verdict == "ok"
    assert synchronised_row(TIME_ERROR).verdict == "warn"
    assert synchronised_row(None).verdict == "info"
    assert disk_clock_row(-1.5).verdict == "ok"
    assert disk_clock_row(-2.5).verdict == disk_clock_row(3600.0).verdict == "warn"
    assert [row.verdict for row in clock_rows(Subject(tmp_path))][1:] == ["ok"]


# -- GPUs and drivers -------------------------------------------------------------------------------------------

H200 = {
    "proc/driver/nvidia/gpus/0000:5d:00.0/information": "Model: \t\t NVIDIA H200\nIRQ:   \t\t 18\n",
    "sys/bus/pci/devices/0000:5d:00.0/vendor": "0x10de\n",
    "sys/bus/pci/devices/0000:5d:00.0/class": "0x030200\n",
    "sys/bus/pci/devices/0000:5d:00.0/device": "0x2335\n",
}
STRIX_HALO = {
    "sys/class/kfd/kfd/topology/nodes/0/properties": "cpu_cores_count 32\ngfx_target_version 0\n",
    "sys/class/kfd/kfd/topology/nodes/1/properties": "simd_count 80\ngfx_target_version 110501\n",
}
NO_DRIVER = {name: text for name, text in H200.items() if name.startswith("sys")}
NETWORK_CARD = {
    "sys/bus/pci/devices/0000:01:00.0/vendor": "0x10de\n",
    "sys/bus/pci/devices/0000:01:00.0/class": "0x020000\n",
}


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({}, []),
        (H200, [Present("cuda", ("NVIDIA H200",), True)]),
        (STRIX_HALO, [Present("rocm", ("gfx1151",), True)]),
        (NO_DRIVER, [Present("cuda", ("PCI device 0x2335",), False)]),
        (NETWORK_CARD, []),
        (
            {"sys/class/drm/card0/device/vendor": "0x1002\n", "sys/class/drm/card0/device/class": "0x030000\n"},
            [Present("rocm", ("PCI device ",), False)],
        ),
        (
            {"sys/class/kfd/kfd/topology/nodes/1/properties": "gfx_target_version 90010\n"},
            [Present("rocm", ("gfx90a",), True)],
        ),
    ],
)
def test_gpus_that_the_kernel_sees(tmp_path: Path, files: dict[str, str], found: list[Present]) -> None:
    assert present_gpus(tree(tmp_path, files)) == found


NVIDIA, AMD = Present("cuda", ("NVIDIA H200",), True), Present("rocm", ("gfx1151",), True)


@pytest.mark.parametrize(
    ("present", "build", "verdict", "told"),
    [
        ([], CPU, "info", ""),
        ([], CUDA, "info", ""),
        ([NVIDIA], CUDA, "ok", ""),
        ([NVIDIA], CPU, "warn", "download.pytorch.org/whl/cu130"),
        ([NVIDIA], ROCM, "warn", "download.pytorch.org/whl/cu130"),
        ([AMD], CPU, "warn", "download.pytorch.org/whl/rocm"),
        ([AMD], CUDA, "warn", "download.pytorch.org/whl/rocm"),
        ([NVIDIA, AMD], CUDA, "ok", ""),
        ([attrs.evolve(NVIDIA, has_driver=False)], CUDA, "warn", "docker --gpus all"),
    ],
)
def test_torch_is_built_for_the_gpu(present: list[Present], build: TorchBuild, verdict: str, told: str) -> None:
    row = judge_build(present, build)
    assert row.verdict == verdict
    assert told in (row.remedy or "")
    assert judge_build(present, build, "cpu").verdict == "info"


def test_a_gpu_without_a_torch_for_it_is_said_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bigrun.doctor.present.torch_build", lambda: CPU)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    rows = list(gpu_rows(Subject(root=tree(tmp_path, H200))))
    assert [(row.name, row.verdict) for row in rows] == [("GPU", "warn"), ("visible GPUs", "info")]
    assert rows[0].found == "NVIDIA (NVIDIA H200); torch is built for 2.13.0+cpu for no GPU"
    assert "CUDA_VISIBLE_DEVICES=3" in rows[1].found


@pytest.mark.parametrize(
    ("build", "version", "verdict"),
    [
        (CUDA, "580.95.05", "ok"),
        (CUDA, "580.00", "ok"),
        (CUDA, "575.57.08", "fail"),
        (TorchBuild("2.10.0+cu126", cuda="12.6"), "525.60.13", "ok"),
        (TorchBuild("2.10.0+cu126", cuda="12.6"), "525.53", "fail"),
        (TorchBuild("2.30.0+cu140", cuda="14.0"), "580.95.05", "info"),
        (CUDA, None, "info"),
        (ROCM, None, "info"),
        (ROCM, "6.12.12", "info"),
    ],
)
def test_the_driver_is_new_enough(build: TorchBuild, version: str | None, verdict: str) -> None:
    assert judge_driver(build, version).verdict == verdict


def test_auto_does_not_pass_over_a_gpu_in_silence() -> None:
    on_cpu = attrs.evolve(device("cpu"), torch=CUDA)
    row = device_row(on_cpu, "auto", [NVIDIA])
    assert row.verdict == "warn"
    assert "would train on the CPU" in row.found
    assert "nvidia-smi" in str(row.remedy)
    for facts, wish, present in (
        (on_cpu, "cpu", [NVIDIA]),
        (on_cpu, "auto", [AMD]),
        (device("h200"), "auto", [NVIDIA]),
    ):
        assert device_row(facts, wish, present).verdict == "ok"


def test_kernels_and_bf16() -> None:
    assert all(kernel_row(facts).verdict == "ok" for facts in DEVICES.values() if facts.is_gpu)
    assert kernel_row(attrs.evolve(device("gfx1151-a"), built_for=("gfx942",))).verdict == "warn"
    assert bf16_row(device("cpu")).verdict == "ok"
    old = attrs.evolve(device("cpu").host.cpu, features=("avx2",))
    row = bf16_row(attrs.evolve(device("cpu"), host=attrs.evolve(device("cpu").host, cpu=old)))
    assert (row.verdict, row.found) == ("warn", "avx2")


# -- memory of a device -----------------------------------------------------------------------------------------


def rows_of_memory(root: Path, facts: Any) -> dict[str, Row]:
    subject = Subject(root=root)
    subject.facts = facts
    return {row.name: row for row in memory_rows(subject)}


def test_memory_that_others_have(tmp_path: Path) -> None:
    assert rows_of_memory(tmp_path, device("cpu")) == {}
    rows = rows_of_memory(tmp_path, device("h200"))
    assert {name: row.verdict for name, row in rows.items()} == {"device memory": "ok", "others on the GPUs": "ok"}
    tree(tmp_path, {"proc/77/comm": "python3\n", "proc/88/comm": "bash\n"})
    for number, name in ((77, "/dev/nvidia0"), (88, "/dev/null")):
        (tmp_path / f"proc/{number}/fd").mkdir()
        (tmp_path / f"proc/{number}/fd/5").symlink_to(name)
    rows = rows_of_memory(tmp_path, attrs.evolve(device("h200"), free_bytes=40 * GB))
    assert {name: row.verdict for name, row in rows.items()} == {"device memory": "warn", "others on the GPUs": "warn"}
    assert rows["others on the GPUs"].found == "python3 (77)"


def test_a_gpu_of_this_process_is_not_somebody_elses(tmp_path: Path) -> None:
    tree(tmp_path, {f"proc/{os.getpid()}/comm": "python\n"})
    (tmp_path / f"proc/{os.getpid()}/fd").mkdir()
    (tmp_path / f"proc/{os.getpid()}/fd/5").symlink_to("/dev/kfd")
    assert others(tmp_path) == []


def test_shared_memory_that_torch_does_not_see_recorded(tmp_path: Path) -> None:
    """The driver offers 96 GiB set aside and 15 GiB besides; or 512 MiB and 62 GiB."""
    tree(
        tmp_path,
        {
            "sys/class/drm/card0/device/mem_info_vram_total": f"{96 << 30}\n",
            "sys/class/drm/card0/device/mem_info_gtt_total": f"{15 << 30}\n",
        },
    )
    assert rows_of_memory(tmp_path, device("gfx1151-b"))["shared memory"].verdict == "ok"
    row = rows_of_memory(tmp_path, device("gfx1151-a"))["shared memory"]
    assert row.verdict == "warn"
    assert "ttm.pages_limit" in str(row.remedy)
    assert "shared memory" not in rows_of_memory(tmp_path, device("gfx1100"))


# -- speed ------------------------------------------------------------------------------------------------------


def test_half_of_what_the_maker_says_is_expected() -> None:
    assert expected_speed("bf16 speed", 500.0, 989.0, "TFLOP/s", "cool it").verdict == "ok"
    slow = expected_speed("bf16 speed", 400.0, 989.0, "TFLOP/s", "cool it")
    assert (slow.verdict, slow.remedy) == ("warn", "cool it")
    assert slow.found == "400 TFLOP/s, 40% of the peak"
    unknown = expected_speed("bf16 speed", 1.0, None, "TFLOP/s", "cool it")
    assert (unknown.verdict, unknown.expected) == ("info", None)


def test_every_listed_gpu_has_a_memory_speed() -> None:
    assert set(MEMORY_GBPS) == {gpu.name for gpu in GPUS}


@pytest.mark.parametrize(
    ("speed", "width", "gbps"),
    [("16.0 GT/s PCIe\n", "16\n", 31.5), ("32.0 GT/s PCIe", "16", 63.0), ("5.0 GT/s PCIe", "8", 4.0),
     ("8 GT/s", "4", 3.94), ("Unknown", "16", None), ("16.0 GT/s PCIe", "0", None), ("", "", None)],
)  # fmt: skip
def test_the_slot_of_a_gpu(speed: str, width: str, gbps: float | None) -> None:
    found = link_gbps(speed, width)
    assert found == (None if gbps is None else pytest.approx(gbps, rel=2e-3))
