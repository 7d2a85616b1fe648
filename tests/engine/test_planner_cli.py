"""`bigrun plan` as a user types it, and the plan of a run for other code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
from click.testing import CliRunner, Result
from tiny import NETWORK

from bigrun.cli import main
from bigrun.config import read_preset
from bigrun.planner.gpus import find_gpu
from bigrun.planner.plan import Fit, Plan
from bigrun.planner.predict import predict
from bigrun.planner.regrouping import Regrouping
from bigrun.planner.rehearsal import rehearse
from bigrun.planner.verdict import advice, device_verdicts
from bigrun.testing.runner import Runner

PRESET = f"""
[run]
max_steps = 100
checkpoint_every_steps = 30

[data]
effective_batch = 16
micro_batch = 4
{NETWORK}
[plugins.console]
[plugins.metrics-log]
[plugins.anomaly-guard]
"""


CHOOSES = ("--plugin", "cuda-tuning")


@pytest.fixture
def preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_run.toml").write_text(PRESET)
    return "my_run.toml"


def plan(*words: str) -> Result:
    return CliRunner().invoke(main, ["plan", *words])


@pytest.mark.parametrize("option", ["--node-gb-per-second", "--network-gbit-per-second", "--step-seconds", "--tflops"])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_what_is_not_finite_is_refused(preset: str, option: str, value: str) -> None:
    result = plan(preset, "--gpus", "2", option, value)
    assert result.exit_code == 2
    assert option in result.stderr


def test_without_a_gpu_and_without_images_it_says_what_is_needed(preset: str, tmp_path: Path) -> None:
    result = plan(preset, "--gpu", "RTX 4090", "--tflops", "50", "--images", "400", "--ram", "32GiB", *CHOOSES)
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith("rehearsing a step of the preset as it is\n")
    starts = [line.split()[0] for line in result.stdout.splitlines() if not line.startswith(" ")]
    assert list(dict.fromkeys(starts)) == [
        "plan", "chosen", "parameters", "memory", "host", "fits", "compute", "speed", "length", "disk", "verdict",
    ]  # fmt: skip
    assert "note " not in result.output  # every plugin of the preset takes part
    assert "100 optimizer steps x 16 = 1,600 images = 4.0 epochs of 400" in result.output
    assert "a checkpoint; the run saves 4" in result.output
    assert "as it is, with micro-batch 4 x 4, it fits in 23.5 GiB" in result.output
    assert "chosen       data.prefetch = " in result.output
    assert "data.micro_batch = " not in result.output, "the preset sets it"
    assert "which fits in the machine's 32.0 GiB" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["my_run.toml"]  # nothing is written


@pytest.mark.slow
def test_json_has_the_same_and_null_for_what_is_not_known(preset: str) -> None:
    result = plan(preset, "--json", "--device-memory", "2GiB", "--tflops", "2")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["need_bytes"] == round(1.25 * found["memory"]["peak_bytes"]) + round(0.7 * 2**30)
    assert sum(found["memory"]["by_category"].values()) == found["memory"]["peak_bytes"]
    assert sum(found["host"]["by_category"].values()) == found["host"]["bytes"]
    assert found["taken_bytes"] == found["need_bytes"], "a GPU has a memory of its own"
    assert found["images_per_second"] == pytest.approx(2e12 / found["flops_per_image"])
    assert found["hours"] == pytest.approx(1600 / found["images_per_second"] / 3600)
    assert (found["gpu"], found["images"], found["epochs"], found["most_images_per_second"]) == (None,) * 4
    assert found["fits"][0] | {"need_bytes": 0} == {
        "activation_checkpointing": "none", "micro_batch": 16, "accumulate": 1, "need_bytes": 0,
        "regrouping": {"own": 4, "chosen": 16, "can_stay": True},
    }  # fmt: skip


def test_a_gpu_that_is_not_listed_is_said_to_be_unknown(preset: str) -> None:
    result = plan(preset, "--gpu", "Voodoo 2", "--device-memory", "1GiB")
    assert result.exit_code == 0
    assert "Voodoo 2: not listed, peak speed n/a" in result.stderr
    assert "a GPU (1.00 GiB)" in result.stdout
    assert "speed        n/a" in result.stdout
    assert "hours n/a" in result.stdout


def test_a_gpu_of_which_no_memory_is_known_is_refused(preset: str) -> None:
    """A letter O for a zero was a warning above a plan that could not say whether the run fits."""
    result = plan(preset, "--gpu", "RTX 4O90")
    assert result.exit_code == 2
    assert "--gpu RTX 4O90: not listed, so that its memory is not known - did you mean 'RTX 4090'?" in result.stderr
    assert "--device-memory 24GiB" in result.stderr
    assert not result.stdout


@pytest.mark.slow
def test_a_speed_that_was_tuned_here_is_found_by_itself(preset: str, tmp_path: Path) -> None:
    facts = {"source": preset, "effective_batch": 16, "trials": [], "images_per_second": 321.0,
             "device": {"name": "NVIDIA H200", "backend": "cuda"}}  # fmt: skip
    (tmp_path / "runs" / "my_run-tune").mkdir(parents=True)
    (tmp_path / "runs" / "my_run-tune" / "trials.json").write_text(json.dumps(facts))
    assert "speed        321.0 images/s at " in plan(preset).stdout
    facts["device"] = {"name": "a processor", "backend": "cpu"}
    (tmp_path / "runs" / "my_run-tune" / "trials.json").write_text(json.dumps(facts))
    assert "speed        n/a" in plan(preset).stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device-memory", "24"], "expected a size above zero with its unit"),
        (["--ram", "64"], "--ram 64: expected a size above zero with its unit"),
        (["--measured", "nowhere.json"], "does not exist"),
        (["--set", "model.width=33"], "width"),
        (["--set", "model.wdth=32"], "did you mean 'width'"),
        (["--images", "0"], "images"),
        (["--tflops", "-1"], "tflops"),
        (["--plugin", "no-such-plugin"], "no-such-plugin"),
        (["--no-plugin", "watchdog"], "not active"),
    ],
)
def test_what_cannot_be_understood_is_one_message_and_exit_code_2(preset: str, words: list[str], message: str) -> None:
    result = plan(preset, *words)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


def test_images_that_are_named_must_be_there_or_their_number_be_said(preset: str) -> None:
    result = plan(preset, "--set", "data.path=/nowhere/at/all")
    assert result.exit_code == 2
    assert "/nowhere/at/all: no such folder" in result.output
    assert "--images" in result.output
    assert plan(preset, "--set", "data.path=/nowhere/at/all", "--images", "7").exit_code == 0


def test_help_loads_no_torch() -> None:
    script = "import sys; from bigrun.cli import main; main(['plan', '--help'], standalone_mode=False); "
    script += "print({'torch', 'numpy', 'rich'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    assert done.stdout.endswith("set()\n")


@pytest.mark.slow
def test_the_largest_micro_batch_is_the_last_that_fits(preset: str) -> None:
    """The limit is one byte less than all images at once need without activation checkpointing."""
    sets = ["data.micro_batch=16", "hardware.device=cpu"]
    limit = rehearse(read_preset(preset, sets), "cuda").need_bytes("cuda") - 1
    found = predict(read_preset(preset), device_memory_bytes=limit)
    assert [(fit.activation_checkpointing, fit.micro_batch, fit.accumulate) for fit in found.fits] == [
        ("none", 8, 2), ("full", 16, 1),
    ]  # fmt: skip
    assert [fit.regrouping for fit in found.fits] == [Regrouping(4, 8, can_stay=True), Regrouping(4, 16, can_stay=True)]
    assert all(fit.need_bytes <= limit for fit in found.fits)
    assert found.fits_as_it_is


def judged(plan: Plan, device_memory_bytes: int, **fits: tuple[int, int] | None) -> list[str]:
    found = tuple(Fit(mode, *(shape or (None, None)), need_bytes=10 * 2**30) for mode, shape in fits.items())
    return device_verdicts(attrs.evolve(plan, device_memory_bytes=device_memory_bytes, fits=found))


def test_advice_keeps_koleos_groups_or_says_that_they_change(preset: str) -> None:
    plan = attrs.evolve(predict(read_preset(preset)), device_memory_bytes=1)
    keeps = Fit("full", 8, 2, 1, Regrouping(4, 8, can_stay=True))
    changes = Fit("none", 2, 8, 1, Regrouping(4, 2, can_stay=False))
    assert advice(attrs.evolve(plan, fits=(changes, keeps))) == (
        "run it with --set data.micro_batch=8 --set hardware.activation_checkpointing=full "
        "--set objective.koleo_group=4: the effective batch stays 16"
    )
    assert advice(attrs.evolve(plan, fits=(changes,))) == (
        "run it with --set data.micro_batch=2: the effective batch stays 16, but objective.koleo_group becomes 2 "
        "instead of 4: another objective"
    )


def test_verdicts_are_plain(preset: str) -> None:
    plan = predict(read_preset(preset))
    tight = plan.need_bytes - 1
    said = judged(plan, tight, none=None, full=(2, 8))
    assert said[0].startswith("as it is, with micro-batch 4 x 4, it does not fit in ")
    assert "without activation checkpointing; with it, micro-batch 2 x 8" in said[1]
    assert said[2].startswith("run it with --set data.micro_batch=2 --set hardware.activation_checkpointing=full")
    said = judged(plan, tight, none=(2, 8), full=(4, 4))
    assert "with micro-batch 2 x 8; with it, 4 x 4" in said[1]
    assert said[2].startswith("run it with --set data.micro_batch=2: the effective batch stays 16")
    said = judged(plan, tight, none=None, full=None)
    assert len(said) == 2
    assert "not even with activation checkpointing" in said[1]
    assert len(judged(plan, plan.need_bytes, none=(4, 4), full=(16, 1))) == 2
    assert advice(plan) is None


@pytest.mark.slow
def test_a_run_is_planned_for_as_its_preset(bigrunner: Runner) -> None:
    options: dict[str, Any] = {"steps": 2, "accumulate": 2}
    result = bigrunner.run(**options)
    result.assert_finished()
    assert result.run is not None
    found, expected = predict(result.run), predict(bigrunner.document({}, **options), device="cpu")
    assert found.memory == expected.memory
    assert (found.device, found.images, found.micro_batch) == ("cpu", len(result.run.dataset), 2)
    assert result.losses == bigrunner.run(**options).losses  # and it goes on as before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("vit_large", "fits in 24.0 GiB without activation checkpointing with micro-batch"),
        ("vit_giant", "does not fit in 24.0 GiB, not even with activation checkpointing"),
    ],
)
def test_shipped_presets_on_24_gib(name: str, verdict: str) -> None:
    result = plan(name, "--device-memory", "24GiB")
    assert result.exit_code == 0, result.output
    assert verdict in result.output


@pytest.mark.slow
def test_vit_giant_needs_activation_checkpointing_where_it_is_tight() -> None:
    result = plan("vit_giant", "--device-memory", "40GiB", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    fits = {fit["activation_checkpointing"]: fit["micro_batch"] for fit in found["fits"]}
    assert fits["full"] > (fits["none"] or 0)
    assert not found["fits_as_it_is"]


def test_a_gpu_for_a_run_on_the_cpu_and_no_name_are_refused() -> None:
    for words, message in (
        (["--gpu", "RTX 4090", "--set", "hardware.device=cpu"], "the run is to be on the CPU (hardware.device)"),
        (["--gpu", " "], "--gpu: expected the name of a GPU"),
    ):
        result = plan("vit_tiny", "--images", "10", *words)
        assert result.exit_code == 2
        assert message in result.stderr


def test_a_name_is_known_as_people_type_it() -> None:
    known = find_gpu("rtx4090")
    assert known is not None
    assert known.name == "RTX 4090"
    assert find_gpu("rtx4090ti") is None
