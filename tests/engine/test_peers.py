"""Several processes of one run: the same run as one process, whatever happens to one of them."""

from __future__ import annotations

import contextlib
import copy
import json
import pickle
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from training import Training, merge

from bigrun.activation import activate
from bigrun.anomaly import Anomaly
from bigrun.config import read_preset
from bigrun.data.course import Course
from bigrun.errors import ExitCode, UsageError
from bigrun.metrics import shared
from bigrun.peers.division import check_division, divide_batch
from bigrun.peers.errors import first_line
from bigrun.peers.exchange import merged
from bigrun.peers.fsdp import in_shards
from bigrun.peers.own_time import follow, following_gathering
from bigrun.peers.pace import Pace, Spell
from bigrun.peers.place import Place
from bigrun.peers.straggler import RANKS, of_ranks
from bigrun.sections import Data

# -- what they say ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "[/pytorch/third_party/gloo/transport/tcp/pair.cc:537] Connection closed by peer [127.0.0.1]:4321. This "
            "is typically caused by a remote worker crashing. GLHF! 🏖️",
            "Connection closed by peer [127.0.0.1]:4321",
        ),
        (
            "[../a/buffer.cc:72] Timed out waiting 1800000ms for recv operation to complete. Check the logs of the "
            "remote worker before reporting an error.\nmore",
            "Timed out waiting 1800000ms for recv operation to complete",
        ),
        ("[127.0.0.1]:4321 is not there\nsecond line", "[127.0.0.1]:4321 is not there"),
    ],
)
def test_of_gloo_the_reason_is_said_alone(text: str, line: str) -> None:
    assert first_line(RuntimeError(text)) == line


def test_one_shard_is_no_plural() -> None:
    assert in_shards(1, 4) == "optimizer states in 1 shard, 4 copies"
    assert in_shards(2, 1) == "optimizer states in 2 shards"


# -- who they are ---------------------------------------------------------------------------------------------

TORCHRUN = {
    "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "node-1", "MASTER_PORT": "29500",
}  # fmt: skip


def test_torchrun_says_which_process_this_is() -> None:
    assert Place.of_environment(TORCHRUN) == Place(rank=3, size=4, local_rank=1)
    assert Place.of_environment({}) == Place.of_environment(TORCHRUN | {"WORLD_SIZE": "1"}) == Place()


def test_what_a_cluster_says_of_its_own_jobs_is_no_place_among_processes() -> None:
    job = {"SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_NTASKS": "2", "OMPI_COMM_WORLD_RANK": "1", "PMI_RANK": "1"}
    assert (
        Place.of_environment(job | {"MASTER_ADDR": "node-1", "MASTER_PORT": "29500", "RANK": "", "LOCAL_RANK": "-1"})
        == Place()
    )


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"WORLD_SIZE": None}, "RANK=3 and LOCAL_RANK=1: this is one of the processes of a run, but WORLD_SIZE"),
        ({"WORLD_SIZE": None, "RANK": None}, "LOCAL_RANK=1: this is one of"),
        ({"WORLD_SIZE": None, "LOCAL_RANK": None}, "RANK=3: this is one of"),
        ({"RANK": None}, "RANK is not set"),
        ({"LOCAL_RANK": "one"}, "LOCAL_RANK='one' is no number"),
        ({"RANK": "4"}, "RANK=4 is none of WORLD_SIZE=4"),
        ({"MASTER_PORT": None}, "MASTER_PORT is not set"),
        ({"MASTER_ADDR": ""}, "MASTER_ADDR is not set"),
        ({"MASTER_PORT": "99999"}, "MASTER_PORT=99999 is no port: expected 1 to 65535"),
        ({"LOCAL_RANK": "4"}, "LOCAL_RANK=4 is none of WORLD_SIZE=4"),
        ({"LOCAL_RANK": "2", "LOCAL_WORLD_SIZE": "2"}, "LOCAL_RANK=2 is none of LOCAL_WORLD_SIZE=2"),
    ],
)
def test_an_environment_that_says_it_by_half_is_refused(change: dict[str, str | None], problem: str) -> None:
    environment = {name: value for name, value in (TORCHRUN | change).items() if value is not None}
    with pytest.raises(UsageError, match="start them with `bigrun launch") as caught:
        Place.of_environment(environment)
    assert problem in str(caught.value)


# -- which images are whose -----------------------------------------------------------------------------------


def positions(course: Course, count: int) -> Iterator[int]:
    """Of the first `count` images."""
    begin, taken = course.first, 0
    while taken < count:
        yield from range(begin, begin + course.micro_batch)
        begin, taken = course.after(begin), taken + course.micro_batch


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.integers(0, 10_000), st.integers(1, 6))
def test_every_step_has_the_same_images_for_any_number_of_processes(
    micro: int, accumulate: int, processes: int, start: int, steps: int
) -> None:
    batch = micro * accumulate * processes
    data = Data(effective_batch=batch, micro_batch=micro)
    own = batch // processes
    parts = [list(positions(Course.of(data, start, rank, processes), steps * own)) for rank in range(processes)]
    for step in range(steps):
        together = [position for part in parts for position in part[step * own : (step + 1) * own]]
        assert together == list(range(start + step * batch, start + (step + 1) * batch))


# -- what they log --------------------------------------------------------------------------------------------


def test_a_value_is_the_mean_of_those_of_all_processes() -> None:
    one, two = [("loss", 1.0), ("loss", 3.0), ("probe", 5.0)], [("loss", 2.0), ("loss", 5.0)]
    assert shared([one, two]) == [("loss", 1.5), ("loss", 4.0), ("probe", 5.0)]


def test_a_process_is_as_fast_as_what_it_does_without_the_others() -> None:
    pace = Pace()
    for _ in range(2):
        pace.begin_step()
        time.sleep(0.02)
        pace.waited(0.005)
        with pace.together(), pace.together():
            time.sleep(0.2)
        pace.end_step()
    time.sleep(0.1)  # between two steps
    spell = pace.take()
    assert spell.steps == 2
    assert spell.step_seconds > 0.22
    assert 0.015 <= spell.own_seconds < spell.step_seconds - 0.2
    assert spell.data_seconds == pytest.approx(0.005)
    assert pace.take().steps == 0


def test_what_a_process_computes_by_itself_counts_although_others_take_part() -> None:
    """As a block does between the gathering of its weights and the sending of its gradients."""
    pace, cpu = Pace(), torch.device("cpu")
    pace.begin_step()
    with pace.together():
        with pace.own(cpu):
            time.sleep(0.02)
            with pace.own(cpu), pace.together():
                assert pace.is_together
                time.sleep(0.2)
            assert not pace.is_together
            time.sleep(0.02)
        pace.begin_own(cpu)  # of a backward pass that ends before the gradient it waits for
        time.sleep(0.02)
    with pace.own(cpu):  # outside all is its own, and counts once
        time.sleep(0.02)
    pace.end_step()
    spell = pace.take()
    assert 0.08 <= spell.own_seconds <= spell.step_seconds - 0.2


def test_what_an_error_ends_is_no_more_together() -> None:
    pace = Pace()
    with contextlib.suppress(OSError), pace.together():
        pace.enter()  # and something that never calls `leave`
        raise OSError
    with pace.together():
        assert pace.is_together
    assert not pace.is_together


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda block: pickle.loads(pickle.dumps(block))])
def test_a_copy_of_a_followed_block_counts_for_nobody(copied: Callable[[nn.Module], nn.Module]) -> None:
    pace, block = Pace(), nn.Linear(2, 2)
    with following_gathering(block, pace):
        pass
    follow(block, pace, torch.device("cpu"))
    other, x = copied(block), torch.ones(1, 2, requires_grad=True)
    pace.begin_step()
    with pace.together():
        torch.testing.assert_close(other(x), block(x))
        other.register_forward_pre_hook(lambda *_: time.sleep(0.05))
        other(x)
    pace.end_step()
    assert pace.take().own_seconds < 0.05


def test_the_slowest_process_and_the_usual_ones_are_told() -> None:
    spells = [Spell(5, 1.0, 0.2, 0.1), Spell(5, 1.0, 0.3, 0.6), Spell(5, 1.0, 0.25, 0.0)]
    assert of_ranks(spells) == dict(zip(RANKS, [1.0, 0.25, 0.3, 0.1, 0.6], strict=True))
    assert of_ranks(spells[:2])["ranks/compute_seconds_median"] == 0.2, "of two the faster one is the usual one"


# -- real runs ------------------------------------------------------------------------------------------------

EXACT: dict[str, Any] = {
    "data": {"effective_batch": 8, "micro_batch": 2, "workers": 1},
    "objective": {"koleo_weight": 0.1, "koleo_group": 2},
}
CLOSE = 2e-5
EQUAL = (
    *("learning_rate", "teacher_momentum", "class_spread", "patch_cosine", "student_divergence"),
    *("target_entropy_fraction", "marginal_entropy_fraction", "prototypes_used_fraction"),
)


def close(rows: list[dict[str, Any]], others: list[dict[str, Any]]) -> None:
    """Equal but for rounding: in what was trained, and in all that is said of it."""
    assert [row["step"] for row in rows] == [row["step"] for row in others]
    for row, other in zip(rows, others, strict=True):
        assert row.keys() == other.keys() - set(RANKS)
        for name in row:
            if name.startswith(("loss", "grad_norm")) or name in EQUAL:
                assert other[name] == pytest.approx(row[name], rel=10 * CLOSE), (row["step"], name)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The rows of one process."""
    training = Training(tmp_path_factory.mktemp("alone"), **EXACT)
    assert training().returncode == 0
    return training.metrics()


def test_two_processes_are_one_also_after_a_change_of_their_number(tmp_path: Path, alone: list[dict[str, Any]]) -> None:
    training = Training(tmp_path, **EXACT)
    assert training("--set", "run.max_hours=1e-9").returncode == ExitCode.STOPPED
    shutil.copytree(training.run, tmp_path / "runs" / "begun")
    main, other = training.together(2)
    assert (main.returncode, other.returncode) == (0, 0), main.stderr + other.stderr
    assert other.stdout == ""
    assert "micro 2 x accumulate 2 x processes 2" in main.stdout
    close(alone, training.metrics())
    assert [event["message"][-20:] for event in training.events("machine-changed")]
    assert len(training.events("resumed")) == 1


def test_three_processes_and_back_to_one(tmp_path: Path) -> None:
    tables = merge(EXACT, {"data": {"effective_batch": 6, "micro_batch": 2}})
    trainings = []
    for name in ("one", "three"):
        (tmp_path / name).mkdir()
        trainings.append(Training(tmp_path / name, **tables))
    one, three = trainings
    assert one().returncode == 0
    done = three.together(3, "--plugin", "one_of_many.signals:Stops")
    assert {each.returncode for each in done} == {143}
    assert three().returncode == 0
    close(one.metrics(), three.metrics())


def test_what_is_done_by_one_process_is_known_to_all(tmp_path: Path) -> None:
    """An infinite loss, a failing observer and a stop signal, each on the process that is not the main one."""
    names = ("anomalies:Infinite", "failures:Fails", "signals:Stops")
    training = Training(tmp_path, plugins={f"one_of_many.{name}": {} for name in names})
    main, other = training.together(2)
    assert main.returncode == other.returncode == 143, main.stderr + other.stderr
    assert [row["step"] for row in training.metrics() if "loss" not in row] == [2]
    (anomaly,) = training.events("anomaly")
    assert "loss/infinite = inf" in anomaly["message"]
    (failed,) = training.events("observer-failed")
    assert failed["facts"]["rank"] == 1
    assert "quarantined: one_of_many.failures:Fails failed in after_backward at step 3" in main.stdout
    (stopped,) = training.events("stopped")
    assert stopped["facts"]["reason"] == "SIGTERM, on process 1"
    state = json.loads((training.run / "checkpoints" / f"step-{stopped['step']:08d}" / "state.json").read_text())
    assert state["step"] == stopped["step"]


@pytest.mark.parametrize("rank", [pytest.param("0", marks=pytest.mark.slow), "1"], ids=["the main one", "another one"])
def test_a_process_that_is_killed_ends_the_others_and_costs_no_checkpoint(
    tmp_path: Path, rank: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIES", rank)
    training = Training(tmp_path)
    done = training.together(2, "--plugin", "one_of_many.signals:Dies")
    killed, left = done[int(rank)], done[1 - int(rank)]
    assert killed.returncode == -9
    assert left.returncode == ExitCode.ERROR
    assert "another process of the run is gone" in left.stderr
    assert "Traceback" not in left.stderr
    assert [path.name for path in (training.run / "checkpoints").iterdir()] == ["step-00000002"]
    assert training().returncode == 0
    assert training.metrics()[-1]["step"] == 6


def test_a_process_without_images_ends_all_behind_the_newest_step(tmp_path: Path) -> None:
    main, other = Training(tmp_path).together(2, "--plugin", "one_of_many.images:Empty")
    assert main.returncode == other.returncode == ExitCode.ERROR
    assert "the loader has ended" in other.stderr
    assert "of the run has no images for step 4: the loader has ended" in main.stderr
    newest = max(path.name for path in (tmp_path / "runs" / "tiny" / "checkpoints").iterdir())
    assert newest == "step-00000003"


def test_an_anomaly_on_one_process_halts_all_and_is_said_once(tmp_path: Path) -> None:
    training = Training(tmp_path)
    main, other = training.together(2, "--plugin", "one_of_many.anomalies:Halts")
    assert main.returncode == other.returncode == ExitCode.HALTED
    assert "halted at step 3: something is odd" in main.stderr
    assert other.stderr == ""
    assert len(training.events("anomaly")) == len(training.events("emergency-saved")) == 1
    (kept,) = (training.run / "emergency").iterdir()
    last = json.loads((kept / "flight.json").read_text())[-1]
    assert sum(map(len, last["images"])) == 4, "the images of both processes"


def test_what_one_process_loses_or_wants_at_the_end_is_told(tmp_path: Path) -> None:
    """A checkpoint that it asks for, an observer that fails in its last hook, a plugin that fails in `teardown`."""
    names = ("requests:AsksAlone", "failures:FailsAtEnd", "failures:FailsInTeardown")
    plugins = {f"one_of_many.{name}": {} for name in names}
    training = Training(tmp_path, run={"max_steps": 4, "checkpoint_every_steps": 4}, plugins=plugins)
    main, other = training.together(2)
    assert main.returncode == other.returncode == ExitCode.QUARANTINED, main.stderr + other.stderr
    assert [event["step"] for event in training.events("checkpoint")] == [3, 4]
    (failed,) = training.events("observer-failed")
    assert (failed["facts"]["hook"], failed["facts"]["rank"]) == ("on_finish", 1)
    said = "process 1: error: one_of_many.failures:FailsInTeardown failed in teardown"
    assert other.stderr.splitlines()[0].startswith(said)
    assert (other.stdout, main.stderr, training.events("plugin-error")) == ("", "", [])


@pytest.mark.parametrize("name", ["FailsInHeader", pytest.param("FailsInStart", marks=pytest.mark.slow)])
def test_what_one_process_cannot_begin_nobody_begins(tmp_path: Path, name: str) -> None:
    training = Training(tmp_path)
    done = training.together(2, "--plugin", f"one_of_many.failures:{name}")
    assert [each.returncode for each in done] == [ExitCode.ERROR] * 2
    assert sum(each.stderr.startswith("error: one_of_many.failures:") for each in done) == 1
    assert "process alone" in done[0].stderr
    assert not any("is gone" in each.stderr for each in done)
    assert training.metrics() == []


def test_each_anomaly_is_one_on_all_processes() -> None:
    def report(*messages: str, **evidence: float) -> list[Anomaly]:
        return [Anomaly("odd", 3, message, evidence) for message in messages]

    several = merged([report("first", "second"), report("first", rank=1), report()])
    assert [(anomaly.message, dict(anomaly.evidence)) for anomaly in several] == [
        ("first", {"rank": 1}),
        ("second", {}),
    ]


def test_what_is_for_one_process_is_refused(tmp_path: Path) -> None:
    for done in Training(tmp_path).together(2, "--supervise"):
        assert done.returncode == ExitCode.USAGE
        assert not done.stderr or "is for one process" in done.stderr


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            {"effective_batch": 9},
            "cannot be divided among 2 processes: take 1, 3 or 9 processes",
        ),
        (
            {"effective_batch": 6, "micro_batch": 2},
            "is no multiple of data.micro_batch = 2 x 2 processes",
        ),
    ],
)
def test_a_batch_that_cannot_be_divided_is_refused(tmp_path: Path, data: dict[str, int], said: str) -> None:
    main, other = Training(tmp_path, data=data).together(2)
    assert (main.returncode, other.returncode, other.stderr) == (ExitCode.USAGE, ExitCode.USAGE, "")
    assert said in main.stderr


def divided(processes: int, batch: int, **objective: Any) -> int | None:
    """The micro-batch of each process where the preset leaves it open."""
    sets = [f"data.effective_batch={batch}", *(f"objective.{name}={value}" for name, value in objective.items())]
    config = activate(read_preset("vit_small", ["data.micro_batch=false", *sets]))[0]
    run: Any = SimpleNamespace(config=config, peers=SimpleNamespace(size=processes))
    check_division(config, processes)
    divide_batch(run)
    return int(run.config.data.micro_batch)


@pytest.mark.parametrize(
    ("processes", "objective", "micro"),
    [
        (1, {}, 48),
        (2, {"koleo_group": 8}, 24),
        (3, {}, 16),
        (2, {"koleo_weight": 0.0}, 24),
        (16, {"koleo_group": 3}, 3),
    ],
)
def test_a_micro_batch_by_rule_gets_smaller_with_more_processes(
    processes: int, objective: dict[str, Any], micro: int
) -> None:
    assert divided(processes, 48, **objective) == micro


@pytest.mark.parametrize(
    ("processes", "objective", "said"),
    [
        (2, {}, "koleo_group = 16; take 1 or 3 processes, or set objective.koleo_group = 12, which is another"),
        (48, {}, "each of 48 processes has 1: no micro-batch .* or set objective.koleo_weight = 0, which"),
        (
            2,
            {"sinkhorn_scope": "micro"},
            'micro_batch = 48, chosen by rule, .* "micro" makes it part of .* one process',
        ),
    ],
)
def test_another_number_of_processes_makes_no_other_objective(
    processes: int, objective: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        divided(processes, 48, **objective)


@pytest.mark.parametrize(
    ("processes", "sets", "said"),
    [
        (3, ["data.micro_batch=64"], "among 3 processes: take 1, 2 or 4 processes"),
        (8, ["data.micro_batch=64"], "a divisor of 32, or leave it out, or take 1, 2 or 4 processes"),
        (3, ["data.micro_batch=256"], "among 3 processes: take one process"),
        (3, ["data.micro_batch=false"], "among 3 processes: take 1, 2, 4, 8 or 16 processes"),
    ],
)
def test_the_numbers_of_processes_that_are_offered_are_accepted(processes: int, sets: list[str], said: str) -> None:
    config = activate(read_preset("vit_small", sets))[0]
    with pytest.raises(UsageError, match=said):
        check_division(config, processes)
    for offered in map(int, re.findall("[0-9]+", said.partition("take ")[2])):
        check_division(config, offered)


def test_bad_input_is_said_once(tmp_path: Path) -> None:
    training = Training(tmp_path, data={"path": "nowhere"})
    done = training.together(2)
    assert {each.returncode for each in done} == {ExitCode.USAGE}
    assert sum("nowhere" in each.stderr for each in done) == 1
    assert not training.run.exists()
