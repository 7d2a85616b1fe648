"""rocm-tuning: what it reads, sysfs and files of TunableOp; what it measures; what torch hears of the environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rocm.fakes import RESULTS, STRIX_HALO, VALIDATORS, sysfs

from bigrun_rocm.attention import TOLERANCES, choose_attention
from bigrun_rocm.config import RocmConfig
from bigrun_rocm.driver import DriverFacts, read_driver
from bigrun_rocm.kernels import apply_attention
from bigrun_rocm.numerical_check import plan_check
from bigrun_rocm.results_file import disagreements, read_results, repair, results_key
from bigrun_rocm.self_test import measure
from bigrun_rocm.tunableop import TunableOp, prepare, validators_now
from bigrun_rocm.warm_up import WarmUp

# -- sysfs ----------------------------------------------------------------------------------------------------


def test_what_the_driver_says(tmp_path: Path) -> None:
    facts = read_driver("0000:c2:00.0", sysfs(tmp_path))
    assert facts == DriverFacts(
        vram_total_bytes=536870912,
        vram_used_bytes=134217728,
        gtt_total_bytes=67149760512,
        gtt_used_bytes=52428800,
        ttm_limit_bytes=16393984 * 4096,
        has_cwsr=True,
        mes_firmware=0x83,
    )
    assert facts.gtt_limit_bytes == 16393984 * 4096


def test_the_gpu_is_known_by_its_address(tmp_path: Path) -> None:
    sysfs(tmp_path)
    sysfs(tmp_path, address="0000:03:00.0", card="card0")
    other = tmp_path / "sys/class/drm/card0/device/mem_info_vram_total"
    other.write_text("25753026560\n")
    assert read_driver("0000:c2:00.0", tmp_path).vram_total_bytes == 536870912
    assert read_driver("0000:03:00.0", tmp_path).vram_total_bytes == 25753026560
    assert read_driver(None, tmp_path).vram_total_bytes is None  # which of the two?
    assert read_driver(None, tmp_path).ttm_limit_bytes is not None


def test_connectors_and_other_makers_are_no_gpus(tmp_path: Path) -> None:
    sysfs(tmp_path)
    connector = tmp_path / "sys/class/drm/card1-HDMI-A-1"
    connector.mkdir()
    (connector / "device").symlink_to(tmp_path / "sys/class/drm/card1")
    nvidia = tmp_path / "sys/class/drm/card0/device"
    nvidia.mkdir(parents=True)
    (nvidia / "vendor").write_text("0x10de\n")
    assert read_driver(None, tmp_path).mes_firmware == 0x83


def test_a_driver_that_says_nothing(tmp_path: Path) -> None:
    assert read_driver("0000:c2:00.0", tmp_path) == DriverFacts()
    assert read_driver(None, tmp_path).gtt_limit_bytes is None
    sysfs(tmp_path)
    (tmp_path / "sys/module/ttm/parameters/pages_limit").write_text("N/A\n")
    (tmp_path / "sys/module/amdgpu/parameters/cwsr_enable").write_text("0\n")
    facts = read_driver(None, tmp_path)
    assert (facts.ttm_limit_bytes, facts.has_cwsr) == (None, False)
    assert facts.gtt_limit_bytes == 67149760512


# -- files of TunableOp ---------------------------------------------------------------------------------------


def test_a_file_of_tunableop() -> None:
    results = read_results(RESULTS)
    assert results.validators == VALIDATORS
    assert len(results.solutions) == 4
    key = ("GemmTunableOp_BFloat16_NT", "nt_384_1536_12864_ld_384_1536_384")
    assert results.solutions[key] == "Gemm_Rocblas_4301"
    assert not results.is_torn


def test_what_torch_would_not_take() -> None:
    assert disagreements(VALIDATORS, VALIDATORS) == []
    assert disagreements(VALIDATORS, {**VALIDATORS, "ROCM_VERSION": "7.2.0"}) == [
        "ROCM_VERSION is 7.1.1.0-38-26aae437f6 there, 7.2.0 here"
    ]
    assert disagreements({"PT_VERSION": "2.13.0"}, {"PT_VERSION": "2.13.0", "GCN_ARCH_NAME": "gfx1151"}) == [
        "GCN_ARCH_NAME is missing"
    ]
    assert disagreements(VALIDATORS, {}) == []
    assert disagreements({**VALIDATORS, "OLDER": "1"}, VALIDATORS) == ["OLDER is not known here"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "results-0.csv"
    path.write_bytes(RESULTS.read_bytes())
    return path


@pytest.mark.parametrize("lost", [1, 10, 40])
def test_a_line_that_was_not_written_to_its_end_is_cut_off(file: Path, lost: int) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[:-lost])
    assert read_results(file).is_torn
    assert len(read_results(file).solutions) == 3
    assert repair(file)
    assert file.read_bytes() == b"".join(whole.splitlines(keepends=True)[:-1])
    assert not repair(file)


def test_a_file_of_half_a_line_becomes_empty(file: Path) -> None:
    file.write_text("Validator,PT_VER")
    assert repair(file)
    assert file.read_text() == ""  # torch's reader indexes the parts of every line, an empty one included


def test_a_file_for_other_versions_is_put_aside(file: Path, tmp_path: Path) -> None:
    now = {**VALIDATORS, "HIPBLASLT_VERSION": "100300-0"}
    (told,) = prepare(file, tmp_path / "none.csv", now)
    assert "HIPBLASLT_VERSION is 100200-26aae437f6 there, 100300-0 here" in told
    assert not file.exists()
    assert file.with_suffix(".rejected").read_bytes() == RESULTS.read_bytes()


def test_a_file_that_torch_takes_is_left_as_it_is(file: Path, tmp_path: Path) -> None:
    assert prepare(file, tmp_path / "none.csv", VALIDATORS) == []
    assert file.read_bytes() == RESULTS.read_bytes()


def test_the_runs_copy_serves_if_its_versions_agree(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "cache.csv"
    assert prepare(path, file, {**VALIDATORS, "GCN_ARCH_NAME": "gfx1100"}) == []
    assert not path.exists()
    (told,) = prepare(path, file, VALIDATORS)
    assert told.startswith("4 results of the run's own copy")
    assert path.read_bytes() == file.read_bytes()


def test_a_copy_of_a_line_that_was_being_written_is_cut_off(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "cache.csv"
    file.write_bytes(file.read_bytes()[:-5])
    prepare(path, file, VALIDATORS)
    assert (read_results(file).is_torn, read_results(path).is_torn) == (True, False)
    assert len(read_results(path).solutions) == 3


def test_a_folder_for_each_gpu_and_version() -> None:
    key = results_key(STRIX_HALO, VALIDATORS)
    assert key == "gfx1151-torch-2.13.0+rocm7.1-hip-7.1.52802-hipblaslt-100200-26aae437f6"
    assert results_key(STRIX_HALO, {"HIPBLASLT_VERSION": "a/b c"}).endswith("hipblaslt-a_b_c")
    assert "hipblaslt" not in results_key(STRIX_HALO, {})


def test_a_build_for_the_cpu_has_no_tunableop(tmp_path: Path) -> None:
    """The real functions of torch, which raise here."""
    from bigrun.devices import Planned

    if torch.version.hip or torch.version.cuda:
        pytest.skip("this torch has it")
    assert validators_now() == {}
    tunableop = TunableOp(STRIX_HALO, tmp_path, tmp_path, WarmUp(20, 5))
    left = Planned("TunableOp tuning", None, "why")
    rows = tunableop.start(
        Planned("TunableOp", "on", "why not"), left, plan_check((2, 13), {}, RocmConfig(), "bf16"), "bf16"
    )
    assert [row.took_effect for row in rows] == [False, None]
    assert not tunableop.is_warm_after_step()
    tunableop.stop()
    assert list(tmp_path.iterdir()) == []


# -- the self-test of attention -------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "precision"), [(torch.bfloat16, "bf16"), (torch.float32, "fp32")])
@pytest.mark.parametrize("head_size", [32, 64])
def test_kernels_of_this_cpu_are_right(dtype: torch.dtype, precision: str, head_size: int) -> None:
    state = torch.get_rng_state()
    measured = measure(head_size, dtype, torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), state)
    assert measured["flash"].is_right(TOLERANCES[precision])
    assert measured["math"].is_right(TOLERANCES[precision])
    assert measured["memory-efficient"].problem is not None  # torch has it for GPUs only
    if precision == "bf16":
        assert measured["flash"].forward_error > 1e-4  # rounding is seen, so a larger error would be


def test_a_kernel_that_is_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.nn.functional.scaled_dot_product_attention

    def wrong(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Right forward; wrong gradients of the keys, and only in bf16."""
        return real(q, k * 0.9 + 0.1 * k.detach(), v) if q.dtype is torch.bfloat16 else real(q, k, v)

    monkeypatch.setattr("torch.nn.functional.scaled_dot_product_attention", wrong)
    measured = measure(64, torch.bfloat16, torch.device("cpu"))
    assert measured["flash"].forward_error < 2e-2 < measured["flash"].backward_error
    choice = choose_attention(measured, {}, TOLERANCES["bf16"])
    assert choice.allowed["flash"] is False
    assert choice.obstacle is not None  # math is wrong as well


def test_switches_of_torch_are_set_read_and_given_back() -> None:
    flags = torch.backends.cuda
    measured = measure(64, torch.bfloat16, torch.device("cpu"))
    wishes = {"flash": False, "memory-efficient": False}
    rows, undo = apply_attention(choose_attention(measured, wishes, 2e-2))
    try:
        assert [(row.before, row.after, row.took_effect) for row in rows] == [("on", "off", True)] * 2
        assert not flags.flash_sdp_enabled()
        assert not flags.mem_efficient_sdp_enabled()
        assert flags.math_sdp_enabled()
    finally:
        undo()
    assert flags.flash_sdp_enabled()
    assert flags.mem_efficient_sdp_enabled()


# -- the environment of a process -----------------------------------------------------------------------------

PROGRAM = """
import os, sys
from bigrun.devices import TorchBuild
from bigrun_rocm.config import RocmConfig
from bigrun_rocm.tuning import Tuning
tuning = Tuning(RocmConfig())
tuning.before_torch(TorchBuild("2.13.0+rocm7.1", hip="7.1.52802"))
assert "torch" not in sys.modules
print(os.environ.get("PYTORCH_CUDA_ALLOC_CONF"), os.environ.get("MIOPEN_USER_DB_PATH"))
tuning.undo()
print(os.environ.get("PYTORCH_CUDA_ALLOC_CONF"), os.environ.get("MIOPEN_USER_DB_PATH"))
"""


@pytest.mark.parametrize("own", [None, "max_split_size_mb:512"])
def test_variables_are_there_before_torch_is_imported(own: str | None, tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTORCH_", "MIOPEN_"))}
    environment = kept | {"XDG_CACHE_HOME": str(tmp_path)} | ({"PYTORCH_CUDA_ALLOC_CONF": own} if own else {})
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    during, after = done.stdout.splitlines()
    database = tmp_path / "bigrun/rocm/miopen/torch-2.13.0+rocm7.1-hip-7.1.52802/db"
    assert during == f"{own or 'garbage_collection_threshold:0.8'} {database}"
    assert after == f"{own} None"
