"""rocm-tuning: what is decided, on recorded facts. No torch is asked."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rocm.fakes import STRIX_HALO

from bigrun.activation import activate
from bigrun.config import Config, Document
from bigrun.devices import DeviceFacts, Planned, TorchBuild
from bigrun.planner.closed_form import StepMemory, tokens_of
from bigrun.testing.devices import DEVICES, device
from bigrun_rocm.attention import Measured, choose_attention
from bigrun_rocm.config import RocmConfig
from bigrun_rocm.defaults import choose_defaults, device_bytes
from bigrun_rocm.driver import DriverFacts
from bigrun_rocm.environment import Environment, plan_environment
from bigrun_rocm.known_problems import PROBLEMS, Situation, advice, is_launch_failure, problem_lines
from bigrun_rocm.memory import GIB
from bigrun_rocm.plan import compares_kernels, plan_aotriton, plan_blas, plan_tunableop
from bigrun_rocm.versions import HIPBLASLT, hipblaslt_support, numbers_of

DECIDE = RocmConfig()
RELEASES = ("2.10.0", "2.11.0", "2.13.0", "2.15.0")
AMD = [name for name, facts in DEVICES.items() if facts.backend == "rocm"]
OTHERS = [name for name, facts in DEVICES.items() if facts.backend != "rocm"]


def plan_device(facts: DeviceFacts, environment: Mapping[str, str], config: RocmConfig) -> list[Planned]:
    """All that is decided before the GPU is asked anything."""
    blas, gate = (plan(facts, environment, config) for plan in (plan_blas, plan_aotriton))
    return [blas, *plan_tunableop(facts, environment, config), gate]


# -- which devices --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OTHERS)
def test_nothing_is_planned_for_other_devices(name: str) -> None:
    facts = device(name)
    assert plan_environment(facts.torch, {}, DECIDE) == []
    assert choose_defaults(facts, configuration(), 100 * GIB) == {}
    assert problem_lines(Situation(facts, environment={"HSA_OVERRIDE_GFX_VERSION": "11.0.0"})) == []


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("name", AMD)
def test_every_amd_gpu_has_a_plan_with_reasons(name: str, release: str) -> None:
    facts = device(name, f"{release}+rocm7.1")
    planned = plan_device(facts, {}, DECIDE) + plan_environment(facts.torch, {}, DECIDE)
    assert len({each.name for each in planned}) == len(planned) == 7
    assert all(each.reason for each in planned)
    assert not any(each.is_custom for each in planned)


@pytest.mark.parametrize(
    ("name", "library", "tunableop", "gate"),
    [
        ("gfx1151-a", "cublaslt", "on", "1"),
        ("gfx1151-b", "cublaslt", "on", "1"),
        ("gfx1151-c", "cublaslt", "on", "1"),
        ("gfx1100", "cublaslt", "off", "1"),
        ("gfx942", "cublaslt", "off", None),
    ],
)
def test_what_is_decided_for_each_gpu_recorded(name: str, library: str, tunableop: str, gate: str | None) -> None:
    facts = device(name)
    assert plan_blas(facts, {}, DECIDE).value == library
    assert plan_tunableop(facts, {}, DECIDE)[0].value == tunableop
    assert plan_aotriton(facts, {}, DECIDE).value == gate


def test_decisions_do_not_depend_on_the_name() -> None:
    renamed = attrs.evolve(STRIX_HALO, name="AMD Radeon Graphics")
    assert plan_device(renamed, {}, DECIDE) == plan_device(STRIX_HALO, {}, DECIDE)


# -- libraries ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "hip", "support"),
    [
        ("gfx942", "6.4.43482", "default"),
        ("gfx1100", "6.2.41133", "unsupported"),
        ("gfx1100", "6.3.42131", "supported"),
        ("gfx1151", "6.4.43482", "unsupported"),
        ("gfx1151", "7.1.52802", "supported"),
        ("gfx1151", "7.13.0", "supported"),
        ("gfx1201", "6.4.0", "default"),
        ("gfx950", "6.4.0", "unsupported"),
        ("gfx1030", "7.1.52802", "unsupported"),
        ("gfx1151", None, "unsupported"),
    ],
)
def test_the_table_of_versions(arch: str, hip: str | None, support: str) -> None:
    assert hipblaslt_support(arch, hip) == support


@pytest.mark.parametrize("arch", HIPBLASLT)
def test_a_newer_rocm_loses_no_architecture(arch: str) -> None:
    order = ["unsupported", "supported", "default"]
    found = [order.index(hipblaslt_support(arch, f"{version}.0")) for version in ("6.2", "6.3", "6.4", "7.0", "7.13")]
    assert found == sorted(found)


def test_an_old_rocm_keeps_rocblas_and_says_why() -> None:
    planned = plan_blas(attrs.evolve(STRIX_HALO, torch=TorchBuild("2.10.0+rocm6.4", hip="6.4.43482")), {}, DECIDE)
    assert planned.is_left_alone
    assert planned.reason == "torch takes no hipBLASLt of ROCm 6.4.43482 on gfx1151"


def test_zero_in_the_environment_is_not_read_by_every_torch() -> None:
    environment = {"TORCH_BLAS_PREFER_HIPBLASLT": "0"}
    old, new = (plan_blas(device("gfx1151-a", f"{r}+rocm7.1"), environment, DECIDE) for r in ("2.11.0", "2.13.0"))
    assert old.is_custom
    assert "torch before 2.13 may not read 0" in old.reason
    assert "2.13" not in new.reason


@pytest.mark.parametrize(
    ("version", "numbers"),
    [("6.17.0-8-generic", (6, 17, 0, 8)), ("7.0.0", (7, 0, 0)), ("6.18.4-arch1-1", (6, 18, 4)), ("", ()), ("x", ())],
)
def test_numbers_of_versions(version: str, numbers: tuple[int, ...]) -> None:
    assert numbers_of(version) == numbers


# -- what the user has set ------------------------------------------------------------------------------------

VARIABLES = {
    "PYTORCH_CUDA_ALLOC_CONF": "x:1",
    "PYTORCH_HIP_ALLOC_CONF": "x:1",
    "PYTORCH_ALLOC_CONF": "x:1",
    "MIOPEN_USER_DB_PATH": "/a",
    "MIOPEN_CUSTOM_CACHE_DIR": "/b",
    "TORCH_BLAS_PREFER_HIPBLASLT": "1",
    "TORCH_BLAS_PREFER_CUBLASLT": "1",
    "PYTORCH_TUNABLEOP_ENABLED": "1",
    "TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL": "0",
}


@pytest.mark.parametrize("variable", VARIABLES)
def test_a_variable_that_is_set_is_left_as_it_is(variable: str) -> None:
    environment = {variable: VARIABLES[variable]}
    wishes = RocmConfig(hipblaslt=False, tunableop=False, aotriton_experimental=True, miopen_cache=True)
    for config in (DECIDE, wishes):
        planned = plan_environment(STRIX_HALO.torch, environment, config) + plan_device(STRIX_HALO, environment, config)
        told = [each for each in planned if variable in each.reason or (variable == each.name and each.is_custom)]
        assert told
        assert all(each.is_left_alone and each.is_custom for each in told)
    assert sum(each.is_custom for each in plan_device(STRIX_HALO, {}, wishes)) == 3


def test_options_win_over_the_plugin() -> None:
    config = RocmConfig(hipblaslt=False, aotriton_experimental=False, tunableop=False, garbage_collection_fraction=0.5)
    assert plan_blas(STRIX_HALO, {}, config).value == "cublas"
    assert plan_aotriton(STRIX_HALO, {}, config).value == "0"
    assert [each.value for each in plan_tunableop(STRIX_HALO, {}, config)] == ["off", None]
    assert plan_environment(STRIX_HALO.torch, {}, config)[0].value == "garbage_collection_threshold:0.5"
    asked = RocmConfig(expandable_segments=True)
    assert plan_environment(STRIX_HALO.torch, {}, asked)[0].value == (
        "garbage_collection_threshold:0.8,expandable_segments:True"
    )


def test_segments_do_not_grow_unless_somebody_asks_for_it() -> None:
    assert "expandable" not in str(plan_environment(STRIX_HALO.torch, {}, DECIDE)[0].value)


def test_a_folder_for_each_version() -> None:
    builds = [TorchBuild(f"{release}+rocm7.1", hip=hip) for release in RELEASES for hip in ("7.1.52802", "7.1.52803")]
    folders = {plan_environment(build, {"XDG_CACHE_HOME": "/c"}, DECIDE)[1].value for build in builds}
    assert len(folders) == len(builds)
    assert all(str(folder).startswith("/c/bigrun/rocm/miopen/") for folder in folders)
    own = plan_environment(builds[0], {"XDG_CACHE_HOME": "/c"}, RocmConfig(cache_directory="/d"))
    assert str(own[1].value).startswith("/d/miopen/")


@given(st.dictionaries(st.sampled_from("abcd"), st.text("xyz", max_size=3)), st.lists(st.sampled_from("abcdef")))
def test_the_environment_comes_back(before: dict[str, str], names: list[str]) -> None:
    variables = dict(before)
    environment = Environment(variables)
    for number, name in enumerate(names):
        environment.set(name, str(number))
    environment.undo()
    environment.undo()
    assert variables == before


# -- attention ------------------------------------------------------------------------------------------------

RIGHT = Measured(forward_error=3e-3, backward_error=7e-3)
ABSENT = Measured(problem="not compiled")
NOBODY = {"flash": None, "memory-efficient": None}
NAN = float("nan")


@pytest.mark.parametrize(
    ("flash", "efficient", "allowed"),
    [
        (RIGHT, RIGHT, (True, True)),
        (Measured(0.021, 1e-3), RIGHT, (False, True)),
        (Measured(1e-3, 0.021), RIGHT, (False, True)),
        (Measured(NAN, 1e-3), RIGHT, (False, True)),
        (Measured(1e-3, NAN), RIGHT, (False, True)),
        (Measured(float("inf"), 1e-3), RIGHT, (False, True)),
        (RIGHT, Measured(1.0, 1.0), (True, False)),
        (ABSENT, RIGHT, (True, True)),
    ],
)
def test_kernels_with_wrong_numbers_are_forbidden(
    flash: Measured, efficient: Measured, allowed: tuple[bool, bool]
) -> None:
    choice = choose_attention({"flash": flash, "memory-efficient": efficient, "math": RIGHT}, NOBODY, 2e-2)
    assert tuple(choice.allowed.values()) == allowed
    assert choice.obstacle is None
    assert len(choice.warnings) == list(allowed).count(False)


def test_math_alone_is_worth_a_warning() -> None:
    choice = choose_attention({"flash": ABSENT, "memory-efficient": Measured(1.0, 1.0), "math": RIGHT}, NOBODY, 2e-2)
    assert choice.obstacle is None
    assert choice.warnings[-1].endswith("flash does not run: not compiled; memory-efficient is not used")


def test_a_gpu_that_computes_nothing_right_is_an_obstacle() -> None:
    wrong = Measured(1.0, NAN)
    assert choose_attention({"flash": wrong, "memory-efficient": ABSENT, "math": wrong}, NOBODY, 2e-2).obstacle
    assert not choose_attention({"flash": RIGHT, "memory-efficient": ABSENT, "math": wrong}, NOBODY, 2e-2).obstacle


def test_the_users_choice_of_kernels_wins() -> None:
    wishes = {"flash": True, "memory-efficient": False}
    measured = {"flash": Measured(1.0, 1.0), "memory-efficient": RIGHT, "math": RIGHT}
    choice = choose_attention(measured, wishes, 2e-2)
    assert choice.allowed == wishes
    assert choice.custom == {"flash": True, "memory-efficient": True}
    assert "it is used all the same" in choice.warnings[0]


# -- values that nobody has set -------------------------------------------------------------------------------


def of_any_batch(effective_batch: int) -> Config:
    config = configuration("vit_base")
    return attrs.evolve(config, data=attrs.evolve(config.data, effective_batch=effective_batch))


@functools.cache
def configuration(architecture: str = "vit_large", **data: Any) -> Config:
    tables: dict[str, Any] = {
        "run": {"max_steps": 1000},
        "data": {"effective_batch": 256, **data},
        "model": {"architecture": architecture},
        "objective": {"prototypes": 65536, "head_hidden": 2048, "head_bottleneck": 256},
    }
    return activate(Document("test", "test", tables))[0]


@pytest.mark.parametrize(
    ("name", "architecture", "limit_gib", "micro_batch", "checkpointing"),
    [
        ("gfx1151-a", "vit_small", 62.5, 64, "none"),
        ("gfx1151-a", "vit_large", 62.5, 32, "none"),
        ("gfx1151-b", "vit_large", 98.0, 64, "none"),
        ("gfx1151-a", "vit_giant", 62.5, 64, "full"),
        ("gfx1100", "vit_large", 24.0, 64, "full"),
        ("gfx1100", "vit_giant", 48.0, 32, "full"),
        ("gfx942", "vit_large", 192.0, 128, "none"),
    ],
)
def test_a_start_that_should_fit(
    name: str, architecture: str, limit_gib: float, micro_batch: int, checkpointing: str
) -> None:
    facts, config = device(name), configuration(architecture)
    chosen = choose_defaults(facts, config, round(limit_gib * GIB))
    assert {path: value for path, (value, _) in chosen.items()} == {
        "data.micro_batch": micro_batch,
        "hardware.activation_checkpointing": checkpointing,
        "data.workers": 8,
        "data.prefetch": 2 if facts.is_unified else 4,
        "hardware.pin_memory": True,
    }
    taken = device_bytes(StepMemory(config), micro_batch, checkpointing, compares=False)  # type: ignore[arg-type]
    assert taken <= limit_gib * GIB
    assert all(why for _, why in chosen.values())
    assert ("no faster" in chosen["data.micro_batch"][1]) == (facts.arch == "gfx1151" and micro_batch == 64)


@pytest.mark.parametrize(("mode", "counted_mib"), [("none", 62010), ("full", 15128)])
def test_the_closed_form_is_near_what_a_rehearsal_counted_recorded(mode: Any, counted_mib: int) -> None:
    """`bigrun plan` of this configuration: 4 micro-batches of 64 images, 65,536 prototypes. The quarter by which a
    choice is on the safe side is more than the difference."""
    peak = StepMemory(configuration("vit_large")).peak_bytes(64, mode)
    assert peak / 2**20 == pytest.approx(counted_mib, rel=0.05)


@given(st.sampled_from(AMD), st.integers(1, 64), st.integers(4, 200), st.integers(1, 4))
def test_a_micro_batch_divides_and_holds_whole_groups(name: str, sixteenths: int, limit: int, processes: int) -> None:
    config = of_any_batch(16 * sixteenths * processes)
    (micro, _), (way, _) = list(choose_defaults(device(name), config, limit * GIB, processes=processes).values())[:2]
    group = config.objective.koleo_group
    assert config.data.effective_batch % (micro * processes) == 0
    assert group is not None
    assert micro % group == 0
    assert micro <= 256
    assert way in ("none", "full")


def test_values_go_by_what_is_set() -> None:
    few = choose_defaults(device("gfx1151-a"), configuration(workers=0, micro_batch=16), 62 * GIB)
    assert few["data.micro_batch"][0] == 16
    assert "data.prefetch" not in few
    tight = choose_defaults(device("gfx1151-a"), configuration("vit_giant", micro_batch=64), 62 * GIB)
    assert tight["hardware.activation_checkpointing"][0] == "full"
    cores = attrs.evolve(STRIX_HALO.host, cpu=attrs.evolve(STRIX_HALO.host.cpu, usable_cores=4))
    assert choose_defaults(attrs.evolve(STRIX_HALO, host=cores), configuration(), 62 * GIB)["data.workers"][0] == 2


# -- known crashes --------------------------------------------------------------------------------------------

GOOD = DriverFacts(has_cwsr=False, mes_firmware=0x80)


def strix(kernel: str = "6.18.4", torch: str = "2.13.0+rocm7.1") -> DeviceFacts:
    host = attrs.evolve(STRIX_HALO.host, kernel=kernel)
    return attrs.evolve(STRIX_HALO, host=host, torch=TorchBuild(torch, hip="7.1.52802"))


def names(situation: Situation) -> list[str]:
    return [problem.name for problem in PROBLEMS if problem.applies(situation)]


@pytest.mark.parametrize(
    ("situation", "expected"),
    [
        (Situation(strix(), GOOD), []),
        (Situation(strix("6.17.0-8-generic"), GOOD), []),
        (Situation(strix("6.17.0-1020-oem"), GOOD), []),
        (Situation(strix(), attrs.evolve(GOOD, mes_firmware=0x83)), ["mes-firmware"]),
        (Situation(strix(), attrs.evolve(GOOD, has_cwsr=True)), []),
        (Situation(strix("6.17.0-8-generic"), attrs.evolve(GOOD, has_cwsr=True)), ["cwsr"]),
        (Situation(strix("6.17.0-8-generic"), DriverFacts()), []),
        (Situation(strix(torch="2.13.0.dev20260610+rocm7.2"), GOOD), ["nightly"]),
        (Situation(strix(torch="2.13.0a0+rocm7.13.0a20260612"), GOOD), ["nightly"]),
        (Situation(strix(torch="2.13.0.dev20260613+rocm7.2"), GOOD), []),
        (Situation(strix(), GOOD, {"HSA_OVERRIDE_GFX_VERSION": "11.0.0"}), ["override"]),
        (Situation(strix(), GOOD, {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}), ["expandable-segments"]),
        (Situation(strix(), GOOD, {"PYTORCH_ALLOC_CONF": "expandable_segments:False"}), []),
        (Situation(strix(), GOOD, head_size=32), ["head-size"]),
        (Situation(strix(), GOOD, head_size=32, precision="fp32"), []),
        (Situation(strix(), GOOD, micro_batch=256, workers=8), ["micro-batch"]),
        (Situation(strix(), GOOD, micro_batch=256, workers=0), []),
        (Situation(strix(), GOOD, micro_batch=128, workers=8), []),
        (Situation(device("gfx942"), attrs.evolve(GOOD, mes_firmware=0x83), micro_batch=512, workers=8), []),
    ],
)
def test_known_crashes(situation: Situation, expected: list[str]) -> None:
    assert names(situation) == expected
    assert len(problem_lines(situation)) == len(expected)


def test_each_known_crash_has_a_source_and_is_met_by_a_test() -> None:
    assert all(problem.source for problem in PROBLEMS)
    assert len({problem.name for problem in PROBLEMS}) == len(PROBLEMS) == 7


def test_versions_of_linux_are_those_of_the_doctor() -> None:
    """Which are bad is the engine's: `bigrun doctor` says the same."""
    for release, said in (("6.17.9", "unstable"), ("7.0.0", "mapped files 300 times slower")):
        (line,) = problem_lines(Situation(strix(release), GOOD))
        assert line.startswith(f"warning      Linux {release}: ")
        assert said in line
    assert not problem_lines(Situation(strix("6.17.0-8-generic"), GOOD))


@pytest.mark.parametrize(
    ("message", "is_told"),
    [
        ("HIP error: unspecified launch failure", True),
        ("hipErrorIllegalAddress", True),
        ("CUDA error: unspecified launch failure", True),
        ("HIP out of memory. Tried to allocate 2.00 GiB", False),
        ("a shape is wrong", False),
    ],
)
def test_a_kernel_that_failed_is_known_by_its_message(message: str, is_told: bool) -> None:
    assert is_launch_failure(RuntimeError(message)) == is_told


def test_advice_about_a_kernel_that_failed() -> None:
    assert "start again with --set data.micro_batch=32," in advice(64, None)
    assert "start again, which" in advice(1, None)
    assert "with micro-batches of 32." in advice(64, 32)


# -- without torch --------------------------------------------------------------------------------------------


def test_decisions_need_no_torch() -> None:
    modules = ["plugin", "plan", "environment", "versions", "memory", "driver", "known_problems", "results_file",
               "attention", "defaults", "tuning", "tunableop", "blas", "kernels", "allocator", "warm_up",
               "numerical_check", "checkpoint_copy"]  # fmt: skip
    imports = "; ".join(f"import bigrun_rocm.{name}" for name in modules)
    checks = "assert 'torch' not in sys.modules; assert before == os.environ"
    program = f"import os, sys; before = dict(os.environ); {imports}; {checks}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr


def test_selective_checkpointing_is_not_counted_as_full() -> None:
    """It keeps the results of matrix products: 64 images of ViT-L that fit with `full` do not."""
    config = configuration("vit_large")
    hardware = attrs.evolve(config.hardware, activation_checkpointing="selective")
    asked = attrs.evolve(config, hardware=hardware, explicit=config.explicit | {"hardware.activation_checkpointing"})
    chosen = choose_defaults(device("gfx1100"), asked, 24 * GIB)
    assert (chosen["data.micro_batch"][0], chosen["hardware.activation_checkpointing"][0]) == (16, "selective")
    assert device_bytes(StepMemory(asked), 64, "selective", compares=False) > 24 * GIB


def test_comparing_kernels_takes_memory_in_the_first_steps() -> None:
    """28 bytes for each number of the hidden layers of 64 images, in the backward pass, when activations take most."""
    config = configuration("vit_large")
    memory, tokens = StepMemory(config), 64 * tokens_of(config)
    plain, comparing = (device_bytes(memory, 64, "full", compares=compares) for compares in (False, True))
    kept = 1 - config.model.drop_path_fraction
    assert comparing - plain == pytest.approx(1.25 * 28 * tokens * kept * 4096)
    limit = round((plain + comparing) / 2)
    facts = attrs.evolve(STRIX_HALO, total_bytes=limit)
    sizes = [choose_defaults(facts, config, limit, compares=c)["data.micro_batch"][0] for c in (False, True)]
    assert sizes[0] > sizes[1]


def test_when_kernels_are_compared() -> None:
    assert compares_kernels(STRIX_HALO, {}, DECIDE)
    assert not compares_kernels(device("gfx942"), {}, DECIDE)
    assert not compares_kernels(STRIX_HALO, {}, RocmConfig(tunableop=False))
    assert not compares_kernels(STRIX_HALO, {}, RocmConfig(tunableop_numerical_check=False))


@pytest.mark.parametrize(
    ("release", "variables", "compares"),
    [
        ("2.9.1", {}, False),  # only the environment turns it on there
        ("2.9.1", {"NUMERICAL_CHECK": "1"}, True),
        ("2.9.1", {"NUMERICAL_CHECK": "0"}, False),
        ("2.10.0", {}, True),
        ("2.13.0", {"NUMERICAL_CHECK": "0"}, False),
        ("2.13.0", {"NUMERICAL_CHECK": "1e-5_1e-2"}, True),
        ("2.13.0", {"TUNING": "0"}, False),  # nothing is measured
        ("2.13.0", {"TUNING": "1"}, True),
        ("2.13.0", {"ENABLED": "0", "NUMERICAL_CHECK": "1e-5_1e-2"}, False),
        ("2.13.0", {"ENABLED": "1"}, False),  # who enables it there has all of it there
        ("2.13.0", {"ENABLED": "1", "NUMERICAL_CHECK": "1e-5_1e-2"}, True),
        ("2.13.0", {"ENABLED": "1", "TUNING": "0", "NUMERICAL_CHECK": "1e-5_1e-2"}, False),
    ],
)
def test_no_room_is_left_for_a_comparison_that_is_not_made(
    release: str, variables: dict[str, str], compares: bool
) -> None:
    environment = {f"PYTORCH_TUNABLEOP_{name}": value for name, value in variables.items()}
    assert compares_kernels(strix(torch=f"{release}+rocm7.1"), environment, DECIDE) == compares


def test_what_fits_in_no_way_is_said() -> None:
    chosen = choose_defaults(STRIX_HALO, configuration("vit_giant"), 10 * GIB)
    assert chosen["data.micro_batch"][1].startswith("does not fit: ")
