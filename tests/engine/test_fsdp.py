"""Several processes with a shard of every network each: the same run as one process."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from one_of_many.folder import put_into
from safetensors.torch import load_file
from training import Training, merge

from bigrun.checkpoint.share import Share
from bigrun.checkpoint.tensors import load_tensors
from bigrun.errors import CheckpointError, ExitCode, NotSavedError

EXACT: dict[str, Any] = {
    "data": {"effective_batch": 8, "micro_batch": 2},
    "objective": {"koleo_weight": 0.1, "koleo_group": 2},
}
CLOSE = 2e-4
ONE_STEP = ("--set", "run.max_hours=1e-9")
FSDP = ("--set", "parallel.strategy=fsdp")
GRADS = (*FSDP, "--set", "parallel.shard=grads")
SHARDED: dict[str, Any] = {"parallel": {"strategy": "fsdp"}}
GRAM = {"snapshot_step": 1, "start_step": 2, "ramp_steps": 1, "refresh_every_steps": 2, "max_refreshes": 3}
CANDIDATES = {"candidates_every_steps": 1, "start_step": 4, "ramp_steps": 1, "max_refreshes": 0}


def training(folder: Path, name: str, *tables: dict[str, Any]) -> Training:
    (folder / name).mkdir()
    return Training(folder / name, **merge(EXACT, *tables))


def numbers(training: Training) -> list[dict[str, float]]:
    """What was trained in each step."""
    told = (
        *("loss", "grad_norm", "gram/distance", "class_spread", "learning_rate", "koleo"),
        *("marginal_entropy_fraction", "prototypes_used_fraction", "student_norm"),
    )
    return [{name: row[name] for name in row if name == "step" or name.startswith(told)} for row in training.metrics()]


def check_equal(one: Training, other: Training) -> None:
    """But for rounding: in what was trained, and in all tensors that it has led to."""
    for mine, others in zip(numbers(one), numbers(other), strict=True):
        assert mine == pytest.approx(others, rel=CLOSE)
    for stem in ("student", "teacher", "optimizer", "frozen"):
        expected, got = load_tensors(newest(one), stem), load_tensors(newest(other), stem)
        assert set(expected) == set(got)
        for name in expected:
            difference, size = (expected[name] - got[name]).abs(), expected[name].abs()
            assert not difference.numel() or difference.max() <= 1e-3 * max(float(size.max()), 1e-3), (stem, name)


def check_shards_are_one(folder: Path, tables: dict[str, Any]) -> None:
    """Two processes with shards and one process train the same."""
    one, two = training(folder, "one", tables), training(folder, "two", tables, SHARDED)
    assert one().returncode == 0
    done = two.together(2)
    assert {each.returncode for each in done} == {0}, said(done)
    check_equal(one, two)


def newest(training: Training) -> Path:
    return max((training.run / "checkpoints").iterdir())


def said(done: Any) -> str:
    return "".join(each.stderr for each in done)


# -- the same run ---------------------------------------------------------------------------------------------


def test_a_run_goes_from_shards_to_one_process_to_copies_to_shards(tmp_path: Path) -> None:
    norms = {"plugins": {"one_of_many.networks:StudentNorm": {}}}
    alone, changing = training(tmp_path, "alone", norms), training(tmp_path, "changing", norms)
    assert alone().returncode == 0
    main, other = changing.together(2, *FSDP, *ONE_STEP)
    assert (main.returncode, other.returncode) == (ExitCode.STOPPED, ExitCode.STOPPED), said([main, other])
    assert "parallel     fsdp over 2 processes" in main.stdout
    first, name = newest(changing), "backbone.blocks.0.mlp.fc1.weight"
    halves = [load_file(first / f"student-0000{number}-of-00002.safetensors")[name] for number in (1, 2)]
    assert [2 * len(half) for half in halves] == [len(load_tensors(first, "student")[name])] * 2
    assert changing(*ONE_STEP).returncode == ExitCode.STOPPED
    assert (newest(changing) / "student.safetensors").is_file()
    assert {done.returncode for done in changing.together(2, *ONE_STEP)} == {ExitCode.STOPPED}
    assert {done.returncode for done in changing.together(2, *GRADS)} == {0}
    check_equal(alone, changing)


@pytest.mark.slow
@pytest.mark.parametrize(
    "tables",
    [
        {"objective": {"queue_steps": 2}},
        {"objective": {"centring": "softmax"}},
        {"objective": {"ibot_weight": 0.0}},
        {"hardware": {"activation_checkpointing": "full"}},
        {"hardware": {"activation_checkpointing": "selective"}},
        {"plugins": {"gram-anchoring": GRAM}},
        {"plugins": {"gram-anchoring": CANDIDATES}},
        {"plugins": {"gram-anchoring": {"mode": "ema", "start_step": 2, "ramp_steps": 1}}},
        {"plugins": {"one_of_many.networks:CompilesBlocks": {}}},
    ],
    ids=["queue", "centre", "dino-alone", "full", "selective", "gram", "gram-candidates", "gram-ema", "compiled"],
)
def test_two_with_shards_are_one(tmp_path: Path, tables: dict[str, Any]) -> None:
    check_shards_are_one(tmp_path, tables)


@pytest.mark.slow
def test_a_gram_teacher_of_a_file_is_that_of_one_process(tmp_path: Path) -> None:
    origin = training(tmp_path, "origin", SHARDED)
    assert {each.returncode for each in origin.together(2)} == {0}
    table = {
        "mode": "ckpt",
        "checkpoint": str(newest(origin)),
        "start_step": 2,
        "ramp_steps": 1,
        "refresh_every_steps": 2,
    }
    tables = {"plugins": {"gram-anchoring": table}}
    check_shards_are_one(tmp_path, tables)


@pytest.mark.slow
def test_four_in_two_groups_and_three_with_uneven_shards_are_one(tmp_path: Path) -> None:
    twelve = {"data": {"effective_batch": 24}}
    one = training(tmp_path, "one", twelve)
    assert one().returncode == 0
    for processes, copies in ((4, 2), (3, 1)):
        table = {"parallel": {"strategy": "fsdp", "replicate": copies}}
        several = training(tmp_path, f"{processes}", twelve, table)
        done = several.together(processes)
        assert {each.returncode for each in done} == {0}, said(done)
        check_equal(one, several)
        pieces = sorted(path.name for path in newest(several).glob("student-*"))
        assert len(pieces) == processes // copies


@pytest.mark.slow
def test_a_backbone_that_waits_and_bf16_averages(tmp_path: Path) -> None:
    origin = training(tmp_path, "origin", SHARDED)
    assert {each.returncode for each in origin.together(2)} == {0}
    tables: dict[str, Any] = {
        "init": {"path": str(newest(origin)), "freeze_backbone_steps": 2},
        "plugins": {"memory-savers": {"optimizer_states": "bf16"}},
    }
    one, two = training(tmp_path, "one", tables), training(tmp_path, "two", tables, SHARDED)
    assert one().returncode == 0
    assert {each.returncode for each in two.together(2)} == {0}
    for mine, others in zip(numbers(one), numbers(two), strict=True):
        assert mine == pytest.approx(others, rel=1e-3)
    state = load_tensors(newest(two), "optimizer")
    assert any(str(tensor.dtype) == "torch.bfloat16" for tensor in state.values())


# -- what is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tables", "problem"),
    [
        ({"parallel": {"strategy": "single"}}, "parallel.strategy = 'single', but there are 2 processes"),
        ({"parallel": {"strategy": "fsdp", "replicate": 3}}, "replicate = 3 does not divide 2 processes; expected one"),
        pytest.param(
            SHARDED | {"plugins": {"memory-savers": {"optimizer_states": "8bit"}}},
            "plugins.memory-savers.optimizer_states = '8bit': not with parallel.strategy = 'fsdp'",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["single", "replicate", "8bit"],
)
def test_what_several_processes_cannot_do_is_refused(tmp_path: Path, tables: dict[str, Any], problem: str) -> None:
    refused = training(tmp_path, "refused", tables)
    done = refused.together(2)
    assert {each.returncode for each in done} == {ExitCode.USAGE}
    assert said(done).count(problem) == 1
    assert not refused.run.exists()


def test_options_of_shards_without_shards_are_refused(tmp_path: Path) -> None:
    done = training(tmp_path, "one", {"parallel": {"replicate": 2}})()
    assert done.returncode == ExitCode.USAGE
    assert "parallel.replicate: has no effect because parallel.strategy is not 'fsdp'" in done.stderr


# -- what happens to one of them ------------------------------------------------------------------------------


def test_a_disk_that_refuses_one_process_costs_a_checkpoint_and_no_training(tmp_path: Path) -> None:
    full = training(tmp_path, "full", SHARDED, {"run": {"max_steps": 5, "checkpoint_every_steps": 1}})
    done = full.together(2, "--plugin", "one_of_many.resources:SmallFiles")
    assert {each.returncode for each in done} == {0}, said(done)
    failed = full.events("checkpoint-failed")
    assert [event["facts"]["failed_step"] for event in failed] == [2, 3]
    assert "process 1: [Errno 27] File too large" in failed[0]["message"]
    assert sorted(path.name for path in (full.run / "checkpoints").iterdir()) == [f"step-{n:08d}" for n in (1, 4, 5)]


@pytest.mark.slow
def test_what_is_done_by_one_process_is_known_to_all(tmp_path: Path) -> None:
    """An infinite loss, a failing observer and a stop signal, each on the process that is not the main one."""
    plugins = {"one_of_many.anomalies:Infinite": {}, "one_of_many.failures:Fails": {}, "one_of_many.signals:Stops": {}}
    harmed = training(tmp_path, "harmed", SHARDED, {"plugins": plugins, "run": {"checkpoint_every_steps": 2}})
    main, other = harmed.together(2)
    assert main.returncode == other.returncode == 143, main.stderr + other.stderr
    assert [row["step"] for row in harmed.metrics() if "loss" not in row] == [2]
    assert "quarantined: one_of_many.failures:Fails failed in after_backward at step 3" in main.stdout
    (stopped,) = harmed.events("stopped")
    assert newest(harmed).name == f"step-{stopped['step']:08d}"


@pytest.mark.slow
def test_an_observer_that_fails_in_the_middle_of_a_look_ends_all(tmp_path: Path) -> None:
    """The others wait for its part of the look: nobody could go on without it."""
    torn = training(tmp_path, "torn", SHARDED, {"run": {"checkpoint_every_steps": 1}})
    main, other = torn.together(2, "--plugin", "one_of_many.failures:FailsInLook")
    assert main.returncode == other.returncode == ExitCode.ERROR
    failure = "one_of_many.failures:FailsInLook failed in after_step in the middle of what all processes do"
    assert f"observer {failure}" in main.stderr
    assert "ValueError: in the middle of a look. The checkpoints are whole; the next start in several" in main.stderr
    (note,) = json.loads((torn.run / "switched-off.json").read_text())["observers"]
    assert "Traceback" in note["traceback"]
    assert torn.events("observer-failed") == [], "the main process has met the end of the other one only"
    assert "Traceback" not in main.stderr + other.stderr
    assert newest(torn).name == "step-00000002"
    alone = torn("--plugin", "one_of_many.failures:FailsInLook")
    assert alone.returncode == 0, "one process waits for nobody, so it tries again: " + alone.stderr


@pytest.mark.slow
def test_an_observer_that_has_ended_all_is_switched_off_when_all_are_started_again(tmp_path: Path) -> None:
    """Else a supervisor would start them until it gives up."""
    torn = training(tmp_path, "torn", SHARDED, {"run": {"checkpoint_every_steps": 1}})
    words = ("--processes", "2", "--supervise", "--plugin", "one_of_many.failures:FailsInLook")
    put_into(tmp_path / "torn")
    done = subprocess.run(torn.words(*words, command="launch"), cwd=torn.folder, capture_output=True, text=True)
    assert done.returncode == ExitCode.QUARANTINED, done.stderr
    assert "restart 1 of 3" in done.stderr
    assert "restart 2" not in done.stderr
    (said,) = torn.events("switched-off")
    assert "stays switched off: it failed in after_step at step 3 in the middle of what all" in said["message"]
    assert "ValueError: in the middle of a look" in said["message"]
    assert torn.metrics()[-1]["step"] == 6
    note = torn.run / "switched-off.json"
    assert "delete runs/tiny/switched-off.json" in said["message"]
    note.write_text("{")
    torn.configure(**merge(EXACT, SHARDED, {"run": {"max_steps": 8}}))
    assert [each.returncode for each in torn.together(2)] == [0, 0]
    assert "nobody is switched off from the start" in torn.events("switched-off")[-1]["message"]


def test_what_a_disk_has_said_to_another_process_is_a_refusal_here_too() -> None:
    for failure in (OSError(27, "File too large"), NotSavedError("the disk gives back other bytes")):
        told = Share.told(json.loads(json.dumps(Share(failure=failure).tell())), rank=1)
        with pytest.raises(OSError, match=f"process 1: .*{failure.args[-1]}") as caught:
            told.check()
        assert caught.value.errno == getattr(failure, "errno", None)
    with pytest.raises(CheckpointError, match="process 1: no dtype"):
        Share.told(Share(failure=CheckpointError("no dtype")).tell(), rank=1).check()


@pytest.mark.slow
def test_a_halt_keeps_everybodys_pieces_in_an_emergency_checkpoint(tmp_path: Path) -> None:
    halted = training(tmp_path, "halted", SHARDED)
    main, other = halted.together(2, "--plugin", "one_of_many.anomalies:Halts")
    assert main.returncode == other.returncode == ExitCode.HALTED
    (kept,) = (halted.run / "emergency").iterdir()
    assert json.loads((kept / "state.json").read_text())["step"] == 3
    drop = ("--drop-plugin", "one_of_many.anomalies:Halts", "--run-dir", "runs/again")
    assert halted("--from", str(kept), *drop).returncode == 0
    rows = (tmp_path / "halted" / "runs" / "again" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [4, 5, 6]


@pytest.mark.slow
@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_process_that_is_killed_costs_no_checkpoint(
    tmp_path: Path, rank: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIES", rank)
    killed = training(tmp_path, "killed", SHARDED, {"run": {"checkpoint_every_steps": 1}})
    done = killed.together(2, "--plugin", "one_of_many.signals:Dies")
    assert done[int(rank)].returncode == -9
    assert done[1 - int(rank)].returncode == ExitCode.ERROR
    assert killed().returncode == 0
    assert [row["step"] for row in killed.metrics()][-3:] == [4, 5, 6]
    assert not list((killed.run / "checkpoints").glob(".*"))
