"""Sources of telemetry: units, what a card does not have, libraries that are broken. No GPU was near any of this: fakes
for the libraries, made-up trees for sysfs."""

from __future__ import annotations

import importlib
import importlib.util
import struct
import sys
import threading
import time
import types
from collections import namedtuple
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from hardware import fake_nvml, trees
from hardware.fake_amdsmi import ADDRESS, FakeAmdSmi
from hypothesis import given
from hypothesis import strategies as st

from bigrun_telemetry.amd_smi import AmdSmi
from bigrun_telemetry.gpu import Gpu
from bigrun_telemetry.gpu_metrics import GpuMetrics
from bigrun_telemetry.host import Host, busy_fraction
from bigrun_telemetry.nvml import Nvml
from bigrun_telemetry.reader import Missing, Unavailable, number
from bigrun_telemetry.reasons import AMD_BITS, HEAT, NVIDIA_BITS, named
from bigrun_telemetry.sample import Sample
from bigrun_telemetry.sysfs import Sysfs

GIB = 2**30
NVIDIA = Gpu("nvidia", "NVIDIA GeForce RTX 4090", uuid=fake_nvml.UUID, pci_address="0000:01:00.0")
RADEON = Gpu("amd", "Radeon RX 7900 XTX", pci_address=ADDRESS)


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> fake_nvml.FakeNvml:
    module = fake_nvml.fake_pynvml()
    monkeypatch.setitem(sys.modules, "pynvml", module)
    return module


@pytest.fixture
def amdsmi(monkeypatch: pytest.MonkeyPatch) -> FakeAmdSmi:
    module = FakeAmdSmi()
    monkeypatch.setitem(sys.modules, "amdsmi", module)
    return module


@pytest.fixture
def drm(tmp_path: Path) -> Path:
    folder = tmp_path / "class" / "drm"
    folder.mkdir(parents=True)
    return folder


# -- NVIDIA ---------------------------------------------------------------------------------------------------


def test_nvml_units(nvml: fake_nvml.FakeNvml) -> None:
    reader = Nvml(NVIDIA)
    assert reader.read() == Sample(
        gpu_temperature_celsius=71,
        gpu_slowdown_celsius=90,
        gpu_power_watts=pytest.approx(412.345),
        gpu_power_limit_watts=450.0,
        gpu_energy_joules=7.2e6,  # 2 kWh
        gpu_clock_mhz=2520,
        gpu_clock_max_mhz=3120,
        gpu_memory_clock_mhz=10_501,
        gpu_fan_fraction=0.62,
        gpu_busy_fraction=0.98,
        gpu_memory_busy_fraction=0.54,
        gpu_memory_used_bytes=22 * GIB,  # what is not free: the driver's own part belongs to nobody else
        gpu_memory_total_bytes=24 * GIB,
        gpu_throttle=("power-cap",),
    )
    reader.close()
    assert not nvml.is_open


def test_a_data_centre_card_tells_a_margin_and_the_heat_of_its_memory(nvml: fake_nvml.FakeNvml) -> None:
    nvml.answers |= {
        "nvmlDeviceGetMarginTemperature": 12,
        "nvmlDeviceGetFieldValues": [fake_nvml.field_value(84)],
        "nvmlDeviceGetTemperatureThreshold": fake_nvml.NVMLErrorNotSupported(),
        "nvmlDeviceGetFanSpeed": fake_nvml.NVMLErrorNotSupported(),
    }
    sample = Nvml(NVIDIA).read()
    assert (sample.gpu_margin_celsius, sample.gpu_memory_celsius) == (12, 84)
    assert (sample.gpu_slowdown_celsius, sample.gpu_fan_fraction) == (None, None)


def test_older_names_of_functions_are_asked_where_the_newer_are_missing(nvml: fake_nvml.FakeNvml) -> None:
    nvml.answers["nvmlDeviceGetTemperature"] = {0: nvml.answers.pop("nvmlDeviceGetTemperatureV")}
    nvml.answers["nvmlDeviceGetCurrentClocksEventReasons"] = fake_nvml.NVMLErrorFunctionNotFound()
    nvml.answers["nvmlDeviceGetCurrentClocksThrottleReasons"] = 0x40 | 0x8
    del nvml.answers["nvmlDeviceGetMarginTemperature"]  # nvidia-ml-py before 12.560
    sample = Nvml(NVIDIA).read()
    assert sample.gpu_temperature_celsius == 71
    assert sample.gpu_throttle == ("hw-slowdown", "hw-thermal")


@pytest.mark.parametrize(
    ("known", "gpu"),
    [
        (f"GPU-{fake_nvml.UUID}", NVIDIA),
        (f"MIG-{fake_nvml.UUID}", NVIDIA),
        ("0000:01:00.0", NVIDIA),
        ("0000:01:00.0", Gpu("nvidia", "a card", pci_address="0000:01:00.0")),
    ],
)
def test_the_gpu_is_found_by_its_uuid_or_its_place(nvml: fake_nvml.FakeNvml, known: str, gpu: Gpu) -> None:
    nvml.known = {known.encode(): "handle"}
    assert Nvml(gpu).read().gpu_clock_mhz == 2520


def test_another_gpu_than_that_of_the_run_is_not_read(nvml: fake_nvml.FakeNvml) -> None:
    nvml.known = {b"GPU-another": "handle"}
    with pytest.raises(Unavailable, match=f"does not know NVIDIA GeForce RTX 4090 .*GPU-{fake_nvml.UUID}"):
        Nvml(NVIDIA)
    assert not nvml.is_open


def test_a_missing_driver_is_said(nvml: fake_nvml.FakeNvml) -> None:
    nvml.init_error = fake_nvml.NVMLErrorLibraryNotFound("NVML Shared Library Not Found")
    with pytest.raises(Unavailable, match="NVML Shared Library Not Found"):
        Nvml(NVIDIA)


def test_a_missing_library_is_said_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "pynvml", "amdsmi")
    for opener, extra in ((lambda: Nvml(NVIDIA), "nvidia"), (lambda: AmdSmi(RADEON), "amd")):
        with pytest.raises(Missing, match=rf"not installed: pip install 'bigrun\[{extra}\]'"):
            opener()


def test_a_lost_gpu_is_an_error_and_no_empty_sample(nvml: fake_nvml.FakeNvml) -> None:
    reader = Nvml(NVIDIA)
    nvml.answers["nvmlDeviceGetPowerUsage"] = fake_nvml.NVMLErrorGpuIsLost("GPU is lost")
    with pytest.raises(fake_nvml.NVMLErrorGpuIsLost):
        reader.read()


@pytest.mark.skipif(importlib.util.find_spec("pynvml") is None, reason="nvidia-ml-py is not installed")
def test_the_real_library_has_the_names_that_are_used() -> None:
    real: Any = importlib.import_module("pynvml")
    names = [name for name in fake_nvml.readings() if name != "nvmlDeviceGetMarginTemperature"]
    names += ["nvmlInit", "nvmlShutdown", "nvmlDeviceGetHandleByUUID", "nvmlDeviceGetHandleByPciBusId", "NVMLError"]
    names += ["NVMLError_NotSupported", "NVMLError_FunctionNotFound", "NVML_FI_DEV_MEMORY_TEMP"]
    assert [name for name in names if not hasattr(real, name)] in ([], ["nvmlDeviceGetTemperatureV"])
    constants = ["NVML_TEMPERATURE_GPU", "NVML_TEMPERATURE_THRESHOLD_SLOWDOWN", "NVML_CLOCK_SM", "NVML_CLOCK_MEM"]
    assert [getattr(real, name) for name in constants] == [getattr(fake_nvml.fake_pynvml(), name) for name in constants]
    reasons = {getattr(real, name) for name in vars(real) if name.startswith("nvmlClocksEventReason")}
    assert set(NVIDIA_BITS) <= reasons
    if not Path("/proc/driver/nvidia").exists():
        with pytest.raises(Unavailable, match="driver does not answer"):
            Nvml(NVIDIA)


# -- AMD by amdsmi --------------------------------------------------------------------------------------------


def test_amdsmi_units(amdsmi: FakeAmdSmi) -> None:
    reader = AmdSmi(RADEON)
    assert reader.read() == Sample(
        gpu_temperature_celsius=61,
        gpu_hotspot_celsius=83,
        gpu_memory_celsius=78,
        gpu_power_watts=301,
        gpu_clock_mhz=2304,
        gpu_clock_max_mhz=2575,
        gpu_memory_clock_mhz=1249,
        gpu_busy_fraction=0.99,
        gpu_memory_busy_fraction=0.4,
    )
    reader.close()
    assert not amdsmi.is_open


@pytest.mark.parametrize(
    ("average", "current", "watts"), [(250, 301, 250), (0, 301, 301), ("N/A", 301, 301), (0, "N/A", None)]
)
def test_a_power_of_0_is_none(amdsmi: FakeAmdSmi, average: Any, current: Any, watts: float | None) -> None:
    amdsmi.power = {"average_socket_power": average, "current_socket_power": current}
    amdsmi.activity["gfx_activity"] = 0
    sample = AmdSmi(RADEON).read()
    assert (sample.gpu_power_watts, sample.gpu_busy_fraction) == (watts, 0)


@pytest.mark.parametrize(
    ("status", "reasons"),
    [
        ("N/A", None),
        (False, ()),
        (True, ("unspecified",)),
        (0, ()),
        (1 << 0 | 1 << 36, ("power-cap", "sw-thermal")),
        (1 << 47, ("hw-thermal",)),
        (2**64 - 1, None),
    ],
)
def test_amdsmi_tells_why_a_card_is_slow(amdsmi: FakeAmdSmi, status: Any, reasons: tuple[str, ...] | None) -> None:
    amdsmi.metrics = {"indep_throttle_status": status}
    assert AmdSmi(RADEON).read().gpu_throttle == reasons


def test_the_card_is_found_by_its_address(amdsmi: FakeAmdSmi) -> None:
    amdsmi.addresses = ["0000:83:00.0", ADDRESS]
    assert AmdSmi(RADEON)._handle == f"handle {ADDRESS}"
    with pytest.raises(Unavailable, match=r"at 0000:c2:00.0 \(it knows: 0000:83:00.0, 0000:03:00.0\)"):
        AmdSmi(trees.STRIX_HALO)
    with pytest.raises(Unavailable):
        AmdSmi(Gpu("amd", "one of two"))
    amdsmi.addresses = [ADDRESS]
    assert AmdSmi(Gpu("amd", "the only one")).read().gpu_clock_mhz == 2304


def test_a_library_that_knows_nothing_is_an_error(amdsmi: FakeAmdSmi) -> None:
    reader = AmdSmi(RADEON)
    amdsmi.deny()
    with pytest.raises(RuntimeError, match='every reading is "N/A"'):
        reader.read()


@pytest.mark.parametrize("error", [KeyError("libamd_smi.so"), OSError("no such file"), SystemExit(1)])
def test_a_library_that_breaks_at_its_import_is_said(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def broken(name: str, *more: Any) -> Any:
        if name == "amdsmi":
            raise error
        return importlib.__import__(name, *more)

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(Missing, match=type(error).__name__):
        AmdSmi(RADEON)


@pytest.mark.skipif(importlib.util.find_spec("amdsmi") is None, reason="amdsmi is not installed")
def test_the_real_library_is_there_or_says_why_not() -> None:
    with pytest.raises(Unavailable, match=r"cannot be imported|does not answer|tells of no GPU|does not know"):
        AmdSmi(Gpu("amd", "no such card", pci_address="ffff:ff:1f.7"))


def test_a_driver_that_does_not_answer_is_said(amdsmi: FakeAmdSmi) -> None:
    amdsmi.init_error = RuntimeError("AMDSMI_STATUS_DRIVER_NOT_LOADED")
    with pytest.raises(Unavailable, match="AMDSMI_STATUS_DRIVER_NOT_LOADED"):
        AmdSmi(RADEON)


# -- AMD by sysfs ---------------------------------------------------------------------------------------------


def test_sysfs_units_of_an_apu(drm: Path) -> None:
    trees.strix_halo_tree(drm)
    assert Sysfs(trees.STRIX_HALO, drm).read() == Sample(
        gpu_temperature_celsius=87,
        gpu_power_watts=pytest.approx(120.019),
        gpu_clock_mhz=2712,
        gpu_clock_max_mhz=2900,
        gpu_busy_fraction=0.97,
        gpu_memory_used_bytes=62 * GIB,
        gpu_memory_total_bytes=110 * GIB,  # what torch reports of this machine
    )


def test_sysfs_units_of_a_card(drm: Path) -> None:
    trees.discrete_tree(drm)
    assert Sysfs(trees.DISCRETE, drm).read() == Sample(
        gpu_temperature_celsius=66,
        gpu_hotspot_celsius=92,
        gpu_memory_celsius=84,
        gpu_slowdown_celsius=100,
        gpu_power_watts=339,
        gpu_power_limit_watts=339,
        gpu_clock_mhz=2455,  # by the table, for want of freq1_input
        gpu_clock_max_mhz=2526,
        gpu_memory_clock_mhz=1249,
        gpu_fan_rpm=2100,
        gpu_fan_fraction=0.6,
        gpu_busy_fraction=1.0,
        gpu_memory_busy_fraction=0.63,
        gpu_memory_used_bytes=20 * GIB,  # without what it may borrow
        gpu_memory_total_bytes=24 * GIB,
        gpu_throttle=(),
    )


def test_counters_that_grow_tell_why_an_apu_is_slow(drm: Path) -> None:
    file = trees.strix_halo_tree(drm) / "gpu_metrics"
    reader = Sysfs(trees.STRIX_HALO, drm)
    seen = [reader.read().gpu_throttle]
    for counters in ({}, {"power": (0, 5, 0)}, {"power": (0, 5, 0)}, {"power": (0, 5, 0), "heat": (0, 9, 0)}):
        file.write_bytes(trees.counters(**counters))
        seen.append(reader.read().gpu_throttle)
    assert seen == [None, (), ("power-cap",), (), ("sw-thermal",)]
    file.write_bytes(trees.counters(prochot=1, power=(0, 5, 0), heat=(0, 9, 0)))
    assert set(reader.read().gpu_throttle or ()) <= HEAT


@pytest.mark.parametrize("bits", [1 << 0, 1 << 16, 1 << 33, 1 << 46, 0])
def test_bits_tell_why_a_card_is_slow(drm: Path, bits: int) -> None:
    file = trees.discrete_tree(drm) / "gpu_metrics"
    file.write_bytes(trees.reasons_now(bits))
    assert Sysfs(trees.DISCRETE, drm).read().gpu_throttle == ((AMD_BITS[bits],) if bits else ())


@given(st.binary(max_size=300), st.sampled_from([b"", struct.pack("<HBB", 264, 3, 0), struct.pack("<HBB", 120, 1, 3)]))
def test_whatever_the_file_holds_it_is_no_error(noise: bytes, head: bytes) -> None:
    metrics = GpuMetrics()
    for _ in range(2):
        reasons = metrics.throttle(head + noise)
        assert reasons is None or set(reasons) <= {*AMD_BITS.values()}
    assert head or GpuMetrics().throttle(noise) is None or noise[:4] == struct.pack("<HBB", 120, 1, 3)


def test_the_card_of_the_run_is_read_among_others(drm: Path) -> None:
    trees.strix_halo_tree(drm)
    trees.discrete_tree(drm)
    trees.card(drm, 2, "0000:01:00.0", vendor="0x10de")
    assert Sysfs(trees.DISCRETE, drm).read().gpu_memory_total_bytes == 24 * GIB
    assert Sysfs(trees.STRIX_HALO, drm).read().gpu_memory_total_bytes == 110 * GIB
    with pytest.raises(Unavailable, match=r"no AMD card at None .*it has: 0000:03:00.0, 0000:c2:00.0"):
        Sysfs(Gpu("amd", "one of two"), drm)
    with pytest.raises(Unavailable, match=r"no AMD card at 0000:01:00\.0"):
        Sysfs(Gpu("amd", "not AMD's", pci_address="0000:01:00.0"), drm)


def test_files_that_are_missing_empty_or_refused_are_not_known(drm: Path) -> None:
    device = trees.strix_halo_tree(drm)
    (device / "gpu_busy_percent").unlink()
    (device / "gpu_busy_percent").mkdir()  # reading it is an OSError, for root too
    (device / "hwmon" / "hwmon3" / "power1_input").write_text("")
    (device / "mem_info_vram_used").write_text("N/A\n")
    sample = Sysfs(trees.STRIX_HALO, drm).read()
    assert (sample.gpu_busy_fraction, sample.gpu_power_watts) == (None, None)
    assert sample.gpu_memory_used_bytes == 2 * GIB
    assert sample.gpu_temperature_celsius == 87


def test_a_card_that_is_gone_is_an_error(drm: Path) -> None:
    device = trees.strix_halo_tree(drm)
    reader = Sysfs(trees.STRIX_HALO, drm)
    device.rename(device.with_name("elsewhere"))
    with pytest.raises(FileNotFoundError, match="is gone"):
        reader.read()


def test_without_the_folder_there_is_no_card(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="it has: none"):
        Sysfs(trees.STRIX_HALO, tmp_path / "nowhere")


# -- the host, and this machine's own -----------------------------------------------------------------------


def test_the_host_is_what_psutil_says(tmp_path: Path) -> None:
    reader = Host(tmp_path)
    time.sleep(0.05)
    sample = reader.read()
    assert sample.host_memory_total_bytes is not None
    assert sample.host_memory_total_bytes <= psutil.virtual_memory().total
    assert sample.process_rss_bytes == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)
    assert sample.disk_free_bytes == pytest.approx(psutil.disk_usage(str(tmp_path)).free, rel=0.2)
    assert sample.cpu_busy_fraction is not None
    assert 0 <= sample.cpu_busy_fraction <= 1
    assert sample.host_memory_free_fraction is not None
    assert 0 < sample.host_memory_free_fraction < 1


def test_the_limit_of_a_container_is_the_memory_of_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What psutil says is the machine's, of which a container may have a part."""
    monkeypatch.setattr("bigrun_telemetry.host.memory_bytes", lambda: (8 * GIB, GIB))
    sample = Host(tmp_path).read()
    assert (sample.host_memory_total_bytes, sample.host_memory_free_fraction) == (8 * GIB, 1 / 8)


def test_how_busy_the_processor_was_is_known_to_whichever_thread_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every reading has a thread of its own, and psutil.cpu_percent remembers the last answer for each thread."""
    times = namedtuple("times", "user nice system idle iowait guest")
    answers = iter([times(100, 0, 50, 800, 50, 20), times(160, 0, 80, 900, 60, 60)])
    monkeypatch.setattr(psutil, "cpu_times", lambda: next(answers))
    reader, seen = Host(tmp_path), []
    thread = threading.Thread(target=lambda: seen.append(reader.read().cpu_busy_fraction))
    thread.start()
    thread.join()
    # 240 s less 40 for guests, which are the user's, too; of 200 s 110 were idle or waited for the disk
    assert seen == [pytest.approx(1 - 110 / 200)]
    same = times(1, 1, 1, 1, 1, 1)
    assert busy_fraction(same, same) is None


def test_sensors_of_the_processor_and_fans_where_there_are_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heat, fan = namedtuple("heat", "label current high critical"), namedtuple("fan", "label current")
    sensors = {
        "nvme": [heat("", 90.0, 80, 85)],
        "k10temp": [heat("Tctl", 71.5, None, None), heat("Tccd1", 69, None, None)],
    }
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: sensors, raising=False)
    monkeypatch.setattr(psutil, "sensors_fans", lambda: {"a": [fan("", 900), fan("", 1200)]}, raising=False)
    sample = Host(tmp_path).read()
    assert (sample.cpu_temperature_celsius, sample.fan_rpm) == (71.5, 1200)
    monkeypatch.setattr(psutil, "sensors_temperatures", dict)
    monkeypatch.delattr(psutil, "sensors_fans")  # as on other systems
    sample = Host(tmp_path).read()
    assert (sample.cpu_temperature_celsius, sample.fan_rpm) == (None, None)


# -- which GPU it is ----------------------------------------------------------------------------------------


def test_a_run_on_the_cpu_has_no_gpu() -> None:
    assert Gpu.of(torch.device("cpu")) is None


@pytest.mark.parametrize("hip", [None, "7.1.52802"])
def test_the_gpu_is_known_by_uuid_and_address(monkeypatch: pytest.MonkeyPatch, hip: str | None) -> None:
    facts = types.SimpleNamespace(
        name="a GPU", uuid=fake_nvml.UUID, is_integrated=1, pci_domain_id=0, pci_bus_id=0xC2, pci_device_id=0
    )
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: facts)
    monkeypatch.setattr(torch.version, "hip", hip)
    vendor = "amd" if hip else "nvidia"
    assert Gpu.of(torch.device("cuda", 1)) == Gpu(vendor, "a GPU", fake_nvml.UUID, "0000:c2:00.0", is_integrated=True)
    del facts.pci_bus_id, facts.uuid
    assert Gpu.of(torch.device("cuda", 1)) == Gpu(vendor, "a GPU", None, None, is_integrated=True)


# -- laws ---------------------------------------------------------------------------------------------------

SAMPLES = st.builds(
    Sample,
    gpu_power_watts=st.none() | st.floats(0, 1000),
    gpu_clock_mhz=st.none() | st.floats(0, 4000),
    swap_used_bytes=st.none() | st.integers(0, 2**40),
    gpu_throttle=st.none() | st.just(()) | st.just(("idle",)),
)


@given(SAMPLES, SAMPLES, SAMPLES)
def test_filling_is_associative_and_keeps_what_is_known(a: Sample, b: Sample, c: Sample) -> None:
    assert a.filled(b).filled(c) == a.filled(b.filled(c))
    assert a.filled(b).known().items() >= a.known().items()
    assert a.filled(b).known().keys() == a.known().keys() | b.known().keys()
    assert a.filled(Sample()) == Sample().filled(a) == a.filled(a) == a


@given(st.integers(0, 2**64 - 1))
def test_bits_have_names_in_order_and_once(bits: int) -> None:
    for names in (NVIDIA_BITS, AMD_BITS):
        found = named(bits, names)
        assert len(set(found)) == len(found)
        assert set(found) == {name for bit, name in names.items() if bit & bits}


@pytest.mark.parametrize("value", ["N/A", None, True, [], {}, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF])
def test_what_is_no_number_is_not_known(value: Any) -> None:
    assert number(value) is None
    assert number(3, 0.5) == 1.5
    assert number(0) == 0


def without(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """As if these were not installed."""
    real = importlib.import_module

    def absent(name: str, *more: Any) -> Any:
        if name in modules:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *more)

    monkeypatch.setattr(importlib, "import_module", absent)
