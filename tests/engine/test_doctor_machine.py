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
from bigrun.devices.pci import link_gbps, link_speed, pci_address
from bigrun.doctor.bandwidth import MEMORY_GBPS
from bigrun.doctor.clock import TIME_ERROR, clock_rows, disk_clock_row, synchronised_row
from bigrun.doctor.device import bf16_row, device_row, kernel_row
from bigrun.doctor.driver import driver_rows, judge_driver, judge_library, library_versions, linux_rows
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
from bigrun.doctor.memory import free_row, memory_rows, seen_row
from bigrun.doctor.present import Present, gpu_rows, judge_build, present_gpus
from bigrun.doctor.row import Row
from bigrun.doctor.smi import ask_smi, computing, total_bytes
from bigrun.doctor.speed import expected_speed
from bigrun.doctor.subject import Subject
from bigrun.doctor.users import User, gpu_users, users_row
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


def test_the_limit_of_a_container_is_still_seen_where_it_lowers_what_a_run_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    limited = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}
    rows = {row.name: row for row in machine_rows(Subject(tmp_path, root=tree(tmp_path, limited)))}
    assert rows["usable processors"].verdict == "warn"
    assert rows["usable processors"].facts == {"allowed_cores": 8, "limit": 2.0}


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
    assert cores_row(32, 16, None).verdict == cores_row(32, 16, 16.0).verdict == "ok"
    row = cores_row(32, 16, 2.5)
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


def test_a_driver_that_was_updated_needs_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bigrun.doctor.driver.torch_build", lambda: CUDA)
    said = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build\n"
    libraries = ("libnvidia-ml.so", "libnvidia-ml.so.1", "libnvidia-ml.so.580.95.05", "libcuda.so.570.86.10")
    files = {f"usr/lib/x86_64-linux-gnu/{name}": "" for name in libraries}
    root = tree(tmp_path, {"proc/driver/nvidia/version": said, **files})
    assert library_versions(root) == ["580.95.05"]
    assert [(row.name, row.verdict) for row in driver_rows(Subject(root=root))] == [
        ("driver", "ok"), ("driver library", "ok"),
    ]  # fmt: skip
    (root / "usr/lib/x86_64-linux-gnu/libnvidia-ml.so.580.95.05").rename(root / "usr/lib/libnvidia-ml.so.580.105.08")
    row = judge_library("580.95.05", library_versions(root))
    assert (row.verdict, row.found) == ("fail", "module 580.95.05, library 580.105.08")
    assert "restart the machine" in str(row.remedy)


def test_the_kernel_is_no_bad_one_for_the_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where torch cannot use the GPU yet."""
    (row,) = linux_rows([AMD, NVIDIA], "6.14.0-33-generic")
    assert (row.name, row.verdict, row.found) == ("Linux", "warn", "6.14.0-33-generic for gfx1151")
    assert row.remedy is not None
    assert "take 6.18.4 or later" in row.remedy
    assert "amd-strix-halo-toolboxes" in row.remedy
    assert [row.verdict for row in linux_rows([AMD], "6.18.5")] == ["ok"]
    assert list(linux_rows([NVIDIA], "6.14.0-33-generic")) == []
    monkeypatch.setattr("bigrun.doctor.driver.torch_build", lambda: CPU)
    monkeypatch.setattr("bigrun.doctor.driver.platform.release", lambda: "7.0.0")
    (row,) = driver_rows(Subject(root=tree(tmp_path, STRIX_HALO)))
    assert (row.name, row.verdict) == ("Linux", "warn")


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


def opens(root: Path, pid: int, name: str, file: str) -> None:
    """A process that has a file of a GPU open."""
    tree(root, {f"proc/{pid}/comm": f"{name}\n"})
    (root / f"proc/{pid}/fd").mkdir()
    (root / f"proc/{pid}/fd/5").symlink_to(file)


def test_memory_that_others_have(tmp_path: Path) -> None:
    assert rows_of_memory(tmp_path, device("cpu")) == {}
    rows = rows_of_memory(tmp_path, device("h200"))
    assert {name: row.verdict for name, row in rows.items()} == {
        "device memory": "ok",
        "memory seen": "info",
        "others on the GPUs": "ok",
    }
    opens(tmp_path, 77, "python3", "/dev/nvidia0")
    opens(tmp_path, 88, "bash", "/dev/null")
    rows = rows_of_memory(tmp_path, attrs.evolve(device("h200"), free_bytes=40 * GB))
    assert (rows["device memory"].verdict, rows["others on the GPUs"].verdict) == ("warn", "warn")
    assert rows["others on the GPUs"].found == "computing: python3 (77)"
    assert "see `others on the GPUs`" in str(rows["device memory"].remedy)


def test_a_gpu_of_this_process_is_not_somebody_elses(tmp_path: Path) -> None:
    opens(tmp_path, os.getpid(), "python", "/dev/kfd")
    assert gpu_users(tmp_path) == []
    assert gpu_users(tmp_path, {os.getpid(): GB}) == []


def test_a_desktop_is_no_process_to_be_ended(tmp_path: Path) -> None:
    """Without nvidia-smi by names; of other processes nobody knows whether they compute."""
    for pid, name in ((1700, "Xorg"), (1812, "gnome-shell"), (1900, "kwin_wayland"), (900, "nvidia-persiste")):
        opens(tmp_path, pid, name, "/dev/nvidia0")
    users, facts = gpu_users(tmp_path), device("rtx4090")
    row = users_row(users, facts)
    assert (row.verdict, row.remedy) == ("info", None)
    assert row.found.startswith("drawing or watching: nvidia-persiste (900), Xorg (1700), gnome-shell (1812)")
    full = free_row(attrs.evolve(facts, free_bytes=facts.total_bytes // 2), users)
    assert full.verdict == "warn"
    assert "Log out of it" in str(full.remedy)
    opens(tmp_path, 2000, "blender", "/dev/nvidia0")
    row = users_row(gpu_users(tmp_path), facts)
    assert row.verdict == "warn"
    assert row.found.startswith("computing: blender (2000); drawing or watching: ")


SMI = """GPU-0a1b2c3d-0000-1111-2222-333344445555, 4242, 18432
GPU-0a1b2c3d-0000-1111-2222-333344445555, 5151, [N/A]
GPU-another, 6000, 40000
"""


def test_the_driver_tells_what_computes_and_how_much_it_has(tmp_path: Path) -> None:
    lines = [[field.strip() for field in line.split(",")] for line in SMI.splitlines()]
    mine = "0a1b2c3d-0000-1111-2222-333344445555"
    assert computing(lines, mine) == {4242: 18432 << 20, 5151: None}
    assert set(computing(lines, None)) == {4242, 5151, 6000}
    assert total_bytes([[f"GPU-{mine}", "24564"], ["GPU-another", "1"]], mine) == 24564 << 20
    assert total_bytes([[f"GPU-{mine}", "[N/A]"]], mine) is total_bytes([], mine) is total_bytes(lines, None) is None
    opens(tmp_path, 1700, "whatever", "/dev/nvidia0")
    tree(tmp_path, {"proc/4242/comm": "python3\n"})  # another user's: what it has open nobody may see
    users = gpu_users(tmp_path, {4242: 18432 << 20, 5151: None})
    assert users == [User("whatever", 1700, None, False), User("python3", 4242, 18432 << 20), User("?", 5151)]
    row = users_row(users, device("rtx4090"))
    assert (row.verdict, row.found) == (
        "warn",
        "computing: python3 (4242, 19.3 GB), ? (5151); drawing or watching: whatever (1700)",
    )


@pytest.mark.parametrize(("size", "verdict"), [(300 << 20, "info"), (4 << 30, "warn"), (None, "warn")])
def test_what_has_next_to_nothing_does_not_matter(size: int | None, verdict: str) -> None:
    row = users_row([User("jupyter", 7, size)], device("rtx4090"))
    assert row.verdict == verdict
    assert ("too little to matter" in row.found) == (verdict == "info")


def test_on_amd_what_opens_kfd_computes_and_the_kernel_says_how_much(tmp_path: Path) -> None:
    opens(tmp_path, 7, "python3", "/dev/kfd")
    tree(tmp_path, {"sys/class/kfd/kfd/proc/7/vram_4711": "20000000000\n"})
    assert gpu_users(tmp_path) == [User("python3", 7, 20 * GB)]


def test_nvidia_smi_that_is_missing_fails_or_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ask_smi("gpu=uuid,memory.total") is None
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/sh\necho "$1, $2"\n')
    program.chmod(0o755)
    assert ask_smi("gpu=uuid") == [["--query-gpu=uuid", "--format=csv", "noheader", "nounits"]]
    program.write_text("#!/bin/sh\nexit 9\n")
    assert ask_smi("gpu=uuid") is None


def test_memory_that_torch_sees_beside_the_drivers() -> None:
    facts = attrs.evolve(device("rtx4090"), total_bytes=25 * GB)
    assert seen_row(facts, 25_757_220_864).verdict == "ok"
    row = seen_row(facts, 50 * GB)
    assert (row.verdict, row.found) == ("warn", "torch sees 25 GB, the driver 50 GB")
    assert seen_row(facts, None).verdict == "info"


def test_a_gpu_is_found_on_its_bus(tmp_path: Path) -> None:
    class Properties:
        pci_domain_id, pci_bus_id, pci_device_id = 0, 0xC1, 0

    assert pci_address(Properties()) == "0000:c1:00.0"
    assert pci_address(object()) is None
    assert link_speed("0000:c1:00.0", tmp_path) is None
    folder = "sys/bus/pci/devices/0000:c1:00.0"
    tree(tmp_path, {f"{folder}/max_link_speed": "16.0 GT/s PCIe\n", f"{folder}/current_link_width": "8\n"})
    assert link_speed("0000:c1:00.0", tmp_path) == pytest.approx(15.75, abs=0.01)


@pytest.mark.parametrize(
    ("root_port", "card", "gbps"),
    [
        (("8.0 GT/s PCIe", "16"), ("32.0 GT/s PCIe", "16"), 15.75),  # a card of generation 5 in a slot of 3
        (("32.0 GT/s PCIe", "16"), ("16.0 GT/s PCIe", "16"), 31.5),
        (("16.0 GT/s PCIe", "4"), ("16.0 GT/s PCIe", "16"), 7.88),  # behind the switch of the card itself
        (("Unknown", "0"), ("16.0 GT/s PCIe", "16"), 31.5),
        (("32.0 GT/s PCIe", "16"), ("Unknown", "16"), None),
    ],
)
def test_a_slot_may_be_slower_than_its_card_recorded(
    tmp_path: Path, root_port: tuple[str, str], card: tuple[str, str], gbps: float | None
) -> None:
    """As sysfs has it: a device's folder is in that of the bridge above it."""
    way = "sys/devices/pci0000:00/0000:00:01.1"
    links = {way: root_port, f"{way}/0000:01:00.0": ("32.0 GT/s PCIe", "16"), f"{way}/0000:01:00.0/0000:02:00.0": card}
    for folder, (speed, width) in links.items():
        tree(tmp_path, {f"{folder}/max_link_speed": f"{speed}\n", f"{folder}/current_link_width": f"{width}\n"})
    devices = tmp_path / "sys/bus/pci/devices"
    devices.mkdir(parents=True)
    (devices / "0000:02:00.0").symlink_to(tmp_path / way / "0000:01:00.0/0000:02:00.0")
    found = link_speed("0000:02:00.0", tmp_path)
    assert found == (None if gbps is None else pytest.approx(gbps, abs=0.01))


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
    assert (unknown.verdict, unknown.expected) == ("info", "n/a")


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
