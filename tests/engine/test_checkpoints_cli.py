"""`bigrun checkpoints`: list, verify, diff, prune, on real checkpoints."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor

from bigrun.checkpoint.layout import Stale, stale_name, step_name
from bigrun.checkpoint.manifest import verify
from bigrun.checkpoint.pruning import plan_pruning, remove, unused
from bigrun.checkpoint.retention import Policy
from bigrun.checkpoint.store import CheckpointStore
from bigrun.checkpoint.tensor_difference import PIECE, group_of
from bigrun.cli import main
from bigrun.errors import RunDirectoryError
from bigrun.lock import LOCK

Command = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def store(run: Path) -> CheckpointStore:
    return CheckpointStore(run / "checkpoints")


@pytest.fixture
def bigrun(run: Path) -> Command:
    """`bigrun checkpoints ...`; RUN stands for the run directory."""

    def command(*words: object, given: str | None = None) -> Result:
        arguments = ["checkpoints", *(str(run) if word == "RUN" else str(word) for word in words)]
        result = CliRunner().invoke(main, arguments, input=given)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return command


def save(store: CheckpointStore, step: int, config: str = "seed = 0\n", **facts: Any) -> Path:
    tensors: dict[str, dict[str, Tensor]] = {
        "teacher": {"backbone.blocks.0.attn.weight": torch.full((4, 3), 1.0), "backbone.norm.bias": torch.zeros(5)}
    }
    state = {"step": step, "anomalies": [], "measured": {"loss": 10 / step, "score": 0.5}, **facts}
    return store.save(step, tensors, {"state": state}, config)


def damage(checkpoint: Path, name: str = "teacher.safetensors") -> None:
    data = bytearray((checkpoint / name).read_bytes())
    data[-1] ^= 1
    (checkpoint / name).write_bytes(data)


def rows(result: Result) -> dict[str, list[str]]:
    """The lines of a list by the name of the checkpoint, in columns."""
    assert result.exit_code == 0, result.output
    return {line.split("  ")[0]: re.split(r" {2,}", line) for line in result.output.splitlines()}


# -- list -------------------------------------------------------------------------------------------------------------


def test_a_line_says_what_a_checkpoint_is(store: CheckpointStore, bigrun: Command) -> None:
    for step in (9, 10, 100_000):
        save(store, step, anomalies=["loss-spike", "dead-module"] if step == 100_000 else [])
    found = rows(bigrun("list", "RUN"))
    assert list(found) == ["checkpoint", "step-00000009", "step-00000010", "step-00100000"]
    assert found["checkpoint"] == ["checkpoint", "saved (UTC)", "size", "health", "loss", "condition"]
    _, saved, size, health, loss, condition = found["step-00000010"]
    assert re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d", saved)
    assert re.fullmatch(r"\d+ B", size)
    assert (health, loss, condition) == ("healthy", "1", "complete; one of the newest 2; the last healthy one")
    assert found["step-00100000"][3:] == ["loss-spike, dead-module", "0.0001", "complete; one of the newest 2"]
    assert found["step-00000009"][5] == "complete"


def test_other_metrics_can_be_shown(store: CheckpointStore, bigrun: Command) -> None:
    save(store, 1)
    found = rows(bigrun("list", "RUN", "--metric", "score", "--metric", "absent"))
    assert found["checkpoint"][4:6] == ["score", "absent"]
    assert found["step-00000001"][4:6] == ["0.5", "-"]


def test_a_checkpoint_in_pieces_says_in_how_many(store: CheckpointStore, bigrun: Command) -> None:
    save(store, 1)
    assert "pieces" not in rows(bigrun("list", "RUN"))["checkpoint"]
    tensors = {f"teacher-{number:05d}-of-00002": {"weight": torch.zeros(2)} for number in (1, 2)}
    index = {"pieces": 2, "shapes": {"weight": [4]}}
    facts = {"state": {"step": 2, "anomalies": [], "measured": {}}, "teacher.pieces": index}
    store.save(2, tensors, facts, "seed = 0\n")
    found = rows(bigrun("list", "RUN"))
    assert [found[name][3] for name in ("checkpoint", "step-00000001", "step-00000002")] == ["pieces", "1", "2"]
    assert [entry["pieces"] for entry in json.loads(bigrun("list", "RUN", "--json").output)] == [1, 2]


def test_what_is_none_is_shown_as_such(store: CheckpointStore, bigrun: Command, tmp_path: Path) -> None:
    save(store, 1)
    (save(store, 2) / "teacher.safetensors").unlink()
    (save(store, 3) / "MANIFEST.json").write_text("{}")
    (save(store, 4) / "config.toml").write_text("longer than before")
    (save(store, 5) / "config.toml").unlink()
    os.mkfifo(store.path(5) / "config.toml")
    document = (save(store, 6) / "MANIFEST.json").read_text()
    (store.path(6) / "MANIFEST.json").write_text(document.replace('"format_version": 1', '"format_version": 99'))
    for name in ("step-999", "old-step-100-backup", "step-00000700", stale_name(Stale.TEMPORARY, 8)):
        (store.directory / name).mkdir()
    (store.directory / "\x1b[2Jnotes\n.txt").write_text("mine")
    (store.directory / "step-00000900").symlink_to(save(CheckpointStore(tmp_path / "other"), 900))
    result = bigrun("list", "RUN")
    found = {name: cells[-1] for name, cells in rows(result).items()}
    assert found.pop("step-00000001") == "complete; one of the newest 2; the last healthy one"
    assert found.pop("step-00000002") == "damaged; teacher.safetensors: is missing"
    assert "damaged; " in found["step-00000003"]
    assert "is not a valid manifest" in found.pop("step-00000003")
    assert found.pop("step-00000004") == "damaged; config.toml: has 18 bytes, expected a file of 9"
    assert "config.toml: has 0 bytes, expected a file of 9" in found.pop("step-00000005")
    assert "newer; " in found.pop("step-00000006")
    (temporary,) = [name for name in found if name.startswith(".tmp-")]
    assert found.pop(temporary) == "being written, or cleared away at the next start"
    foreign = {"step-999", "old-step-100-backup", "step-00000700", "step-00000900", r"\x1b[2Jnotes\n.txt"}
    del found["checkpoint"]
    assert found == dict.fromkeys(foreign, "no checkpoint: ignored")
    assert "\x1b" not in result.output


def test_bytes_are_read_only_when_asked(store: CheckpointStore, bigrun: Command) -> None:
    save(store, 1)
    damage(save(store, 2))
    assert rows(bigrun("list", "RUN"))["step-00000002"][-1].startswith("complete")
    found = rows(bigrun("list", "RUN", "--verify"))
    assert found["step-00000001"][-1].startswith("verified; one of the newest 2")
    assert "damaged; teacher.safetensors: has sha256" in found["step-00000002"][-1]


def test_emergency_checkpoints_are_listed(store: CheckpointStore, bigrun: Command, run: Path) -> None:
    save(store, 5)
    save(CheckpointStore(run / "emergency"), 4, anomalies=["nonfinite"])
    found = rows(bigrun("list", "RUN"))
    assert list(found)[1:] == ["step-00000005", "emergency/step-00000004"]
    assert found["emergency/step-00000004"][3] == "nonfinite"
    assert found["emergency/step-00000004"][-1] == "complete"


def test_programs_read_a_list_as_json(store: CheckpointStore, bigrun: Command) -> None:
    save(store, 1)
    (store.directory / "notes.txt").write_text("mine")
    first, second = json.loads(bigrun("list", "RUN", "--json").output)
    assert (first["step"], first["condition"], first["anomalies"]) == (1, "complete", [])
    assert first["measured"] == {"loss": 10.0, "score": 0.5}
    assert first["bytes"] == sum(path.stat().st_size for path in store.path(1).iterdir())
    assert (second["name"], second["condition"], second["step"]) == ("notes.txt", "foreign", None)


@pytest.mark.parametrize("command", ["list", "verify", "prune"])
def test_what_is_no_run_is_said(tmp_path: Path, bigrun: Command, command: str) -> None:
    more = ["--keep-last", 2] if command == "prune" else []
    for place in (tmp_path / "nothing", tmp_path):
        result = bigrun(command, place, *more)
        assert result.exit_code == 2
        assert re.match(rf"error: {place}: (holds no checkpoint|no such directory)", result.output)


@pytest.mark.parametrize(
    "words", ["checkpoints list", "checkpoints verify", "checkpoints prune --keep-last 2", "monitor"]
)
def test_a_run_that_has_saved_nothing_yet_is_a_run(run: Path, words: str) -> None:
    """It begins with its configuration; the folder of checkpoints comes with the first, or is empty till then."""
    run.mkdir()
    (run / "config.toml").write_text("")
    for _ in range(2):
        result = CliRunner().invoke(main, [*words.split(), str(run)])
        if (run / "checkpoints").is_dir() and "verify" not in words and "monitor" not in words:
            assert result.exit_code == 0, result.output  # an empty list; nothing to remove
        else:
            assert result.exit_code == 2
            assert f"{run}: this run has no checkpoint yet; it saves its first after" in result.output
        (run / "checkpoints").mkdir(exist_ok=True)


# -- verify -----------------------------------------------------------------------------------------------------------


def test_every_byte_is_read(store: CheckpointStore, bigrun: Command, run: Path) -> None:
    for step in (9, 10):
        save(store, step)
    save(CheckpointStore(run / "emergency"), 3)
    result = bigrun("verify", "RUN")
    assert result.exit_code == 0
    assert [line.split(" (")[0] for line in result.output.splitlines()] == [
        f"{store.path(9)}: verified",
        f"{store.path(10)}: verified",
        f"{run / 'emergency' / step_name(3)}: verified",
    ]


def test_each_problem_names_the_file(store: CheckpointStore, bigrun: Command) -> None:
    save(store, 1)
    damage(save(store, 2))
    (store.path(2) / "state.json").unlink()
    (store.path(2) / "extra").write_text("")
    result = bigrun("verify", "RUN")
    assert result.exit_code == 1
    assert f"{store.path(1)}: verified" in result.output
    assert f"{store.path(2)}: damaged" in result.output
    for problem in ("teacher.safetensors: has sha256", "state.json: is missing", "extra: is not in MANIFEST.json"):
        assert f"\n  {problem}" in result.output


def test_steps_can_be_chosen(store: CheckpointStore, bigrun: Command) -> None:
    for step in (1, 2, 3):
        save(store, step)
    damage(store.path(2))
    result = bigrun("verify", "RUN", 3, 1)
    assert result.exit_code == 0
    assert [Path(line.split(":")[0]).name for line in result.output.splitlines()] == ["step-00000003", "step-00000001"]
    assert bigrun("verify", "RUN", 2).exit_code == 1
    result = bigrun("verify", "RUN", 7)
    assert result.exit_code == 2
    assert "has no checkpoint of step 7; there are: 1, 2, 3" in result.output


def test_one_checkpoint_can_be_verified_alone(store: CheckpointStore, bigrun: Command, tmp_path: Path) -> None:
    save(store, 1)
    assert bigrun("verify", store.path(1)).exit_code == 0
    shutil.copytree(store.path(1), tmp_path / "kept-for-ever")
    assert bigrun("verify", tmp_path / "kept-for-ever").exit_code == 0
    shutil.copytree(store.path(1), store.path(5))
    result = bigrun("verify", store.path(5))
    assert result.exit_code == 1
    assert "MANIFEST.json: is of step 1, the directory of step 5" in result.output
    assert bigrun("verify", store.path(1), 1).exit_code == 2


def test_a_checkpoint_of_a_newer_version_is_not_called_verified(store: CheckpointStore, bigrun: Command) -> None:
    path = save(store, 1) / "MANIFEST.json"
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 99'))
    result = bigrun("verify", "RUN")
    assert result.exit_code == 1
    assert "has checkpoint format 99" in result.output


# -- diff -------------------------------------------------------------------------------------------------------------


def save_tensors(folder: Path, step: int, config: str = "seed = 0\n", **groups: dict[str, Tensor]) -> Path:
    return CheckpointStore(folder).save(step, groups, {"state": {"step": step}}, config)


def test_two_saves_of_one_state_are_equal_bit_for_bit(tmp_path: Path, bigrun: Command) -> None:
    tensors = {"w": torch.tensor([1.0, float("nan"), float("inf")]), "n": torch.tensor(3), "b": torch.tensor([True])}
    a = save_tensors(tmp_path / "a", 1, teacher=tensors, frozen={})
    b = save_tensors(tmp_path / "b", 1, teacher=tensors, frozen={})
    result = bigrun("diff", a, b)
    assert (result.exit_code, result.output) == (0, "equal bit for bit\n")


def test_a_bit_that_no_comparison_of_numbers_sees_is_a_difference(tmp_path: Path, bigrun: Command) -> None:
    a = save_tensors(tmp_path / "a", 1, teacher={"w": torch.tensor([0.0, 1.0])})
    b = save_tensors(tmp_path / "b", 1, teacher={"w": torch.tensor([-0.0, 1.0])})
    result = bigrun("diff", a, b)
    assert result.exit_code == 1
    assert "teacher.safetensors: 1 of 1 tensor changed" in result.output
    assert re.search(r"\n  w +1 of 1 +0 +0\n", result.output)


def test_facts_and_configuration_are_compared(store: CheckpointStore, bigrun: Command) -> None:
    facts = {"schedules": {"lr": 0.1}, "plugins": {"a": {"state": [1, 2]}}, "versions": {"torch": "2.10"}}
    save(store, 1, config="seed = 0\n[run]\nmax_steps = 4\n", **facts)
    save(store, 2, config="seed = 0\n[run]\nmax_steps = 4.0\n", **{**facts, "schedules": {"lr": 0.2}, "plugins": {}})
    result = bigrun("diff", "RUN", 1, 2)
    assert result.exit_code == 1
    lines = result.output.splitlines()
    assert lines[:2] == ["config.toml: 1 other value", "  run.max_steps: 4 -> 4.0"]
    assert lines[2] == "state.json: 4 other values"
    assert sorted(lines[3:]) == [
        "  measured.loss: 10.0 -> 5.0",
        "  plugins.a.state: [1, 2] -> absent",
        "  schedules.lr: 0.1 -> 0.2",
        "  step: 1 -> 2",
    ]


def test_an_empty_table_is_not_an_absent_one(store: CheckpointStore, bigrun: Command, tmp_path: Path) -> None:
    """And one that was filled is told by what is in it."""
    facts = [
        {"state": {"a": 1, "plugins": {}}},
        {"state": {"a": 1}},
        {"state": {"a": 1, "plugins": {"x": 3}}},
        {"state": {}},
    ]
    paths = [CheckpointStore(tmp_path / str(i)).save(1, {}, fact, "a = 1\n") for i, fact in enumerate(facts)]

    def lines(a: int, b: int) -> list[str]:
        return bigrun("diff", paths[a], paths[b]).output.splitlines()

    assert lines(0, 1) == ["state.json: 1 other value", "  plugins: {} -> absent"]
    assert lines(0, 2) == ["state.json: 1 other value", "  plugins.x: absent -> 3"]
    assert lines(2, 0) == ["state.json: 1 other value", "  plugins.x: 3 -> absent"]
    assert lines(1, 3) == ["state.json: 1 other value", "  a: 1 -> absent"]


def test_names_shapes_and_dtypes_are_compared(tmp_path: Path, bigrun: Command) -> None:
    a = save_tensors(tmp_path / "a", 1, teacher={"x": torch.zeros(3), "y": torch.zeros(4), "z": torch.zeros(2)}, old={})
    b = save_tensors(
        tmp_path / "b", 1, teacher={"y": torch.zeros(2, 2), "z": torch.zeros(2).half(), "new": torch.zeros(1)}
    )
    result = bigrun("diff", a, b)
    assert result.exit_code == 1
    assert result.output.splitlines() == [
        "old.safetensors: only in the first",
        "teacher.safetensors: 4 tensors without a match",
        "  x: only in the first",
        "  new: only in the second",
        "  y: F32 [4] -> F32 [2, 2]",
        "  z: F32 [2] -> F16 [2]",
    ]


def test_changes_are_measured_by_parts_of_the_network(tmp_path: Path, bigrun: Command) -> None:
    """Relative L2 change and largest change, over all tensors of a part, the most changed first."""
    old = {f"backbone.blocks.{i}.{name}": torch.full((6,), 2.0) for i in range(3) for name in ("w", "b")}
    new = {name: tensor.clone() for name, tensor in old.items()}
    new["backbone.blocks.1.w"][0] += 3.0
    new["backbone.blocks.2.w"][:2] += torch.tensor([3.0, -4.0])
    result = bigrun("diff", save_tensors(tmp_path / "a", 1, t=old), save_tensors(tmp_path / "b", 1, t=new))
    norm = (12 * 4.0) ** 0.5
    head, title, first, second = result.output.splitlines()
    assert head == "t.safetensors: 2 of 6 tensors changed"
    assert re.split(r" {2,}", title.strip()) == ["part", "tensors changed", "relative L2 change", "largest change"]
    assert re.split(r" {2,}", first.strip()) == ["backbone.blocks.2", "1 of 2", f"{5 / norm:.3g}", "4"]
    assert re.split(r" {2,}", second.strip()) == ["backbone.blocks.1", "1 of 2", f"{3 / norm:.3g}", "3"]


def test_numbers_that_are_not_finite_come_first(tmp_path: Path, bigrun: Command) -> None:
    old = {"a.w": torch.zeros(2), "b.w": torch.ones(2), "c.w": torch.ones(2)}
    new = {"a.w": torch.ones(2), "b.w": torch.tensor([1.0, float("nan")]), "c.w": torch.tensor([1.0, 1.5])}
    result = bigrun("diff", save_tensors(tmp_path / "a", 1, t=old), save_tensors(tmp_path / "b", 1, t=new))
    body = [re.split(r" {2,}", line.strip()) for line in result.output.splitlines()[2:]]
    assert [(row[0], row[2], row[3]) for row in body] == [
        ("b", "nan", "nan"),
        ("a", "inf", "1"),
        ("c", f"{0.5 / 2**0.5:.3g}", "0.5"),
    ]


def test_a_large_tensor_is_compared_in_pieces(tmp_path: Path, bigrun: Command) -> None:
    old = torch.zeros(PIECE + 3, dtype=torch.uint8)
    new = old.clone()
    new[0], new[-1] = 3, 4
    a = save_tensors(tmp_path / "a", 1, t={"w": old + 1})
    b = save_tensors(tmp_path / "b", 1, t={"w": new + 1})
    last = bigrun("diff", a, b).output.splitlines()[-1]
    assert re.split(r" {2,}", last.strip())[1:] == ["1 of 1", f"{5 / (PIECE + 3) ** 0.5:.3g}", "4"]


def test_long_differences_are_cut(tmp_path: Path, bigrun: Command) -> None:
    old = {f"blocks.{i}.w": torch.ones(1) for i in range(12)}
    new = {name: tensor + 1 for name, tensor in old.items()}
    a, b = save_tensors(tmp_path / "a", 1, t=old), save_tensors(tmp_path / "b", 1, t=new)
    lines = bigrun("diff", a, b, "--limit", 3).output.splitlines()
    assert len(lines) == 2 + 3 + 1
    assert lines[-1] == "  ... and 9 more (--limit 12 shows all)"
    assert len(bigrun("diff", a, b, "--limit", 12).output.splitlines()) == 14


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("backbone.blocks.3.attn.qkv.weight", "backbone.blocks.3"),
        ("dino_head.mlp.0.bias", "dino_head.mlp.0"),
        ("backbone.patch_embed.proj.weight", "backbone.patch_embed.proj"),
        ("backbone.cls_token", "backbone"),
        ("centre", "centre"),
        ("student.backbone.blocks.3.attn.qkv.weight/exp_avg", "student.backbone.blocks.3 exp_avg"),
        ("gram/blocks.2.norm.weight", "gram.blocks.2"),
    ],
)
def test_parts_are_blocks_or_modules(name: str, part: str) -> None:
    assert group_of(name) == part


def test_what_cannot_be_compared_is_said(store: CheckpointStore, bigrun: Command, tmp_path: Path) -> None:
    good, cut, fifo = save(store, 1), save(store, 2), save(store, 3)
    (cut / "teacher.safetensors").write_bytes(b"cut")
    (fifo / "state.json").unlink()
    os.mkfifo(fifo / "state.json")
    for words, expected in (
        ((good,), "expected two checkpoints"),
        ((good, 1, 2, 3), "expected two checkpoints"),
        (("RUN", "x", "y"), "expected two checkpoints"),
        ((good, tmp_path), f"{tmp_path}: is no checkpoint"),
        (("RUN", 1, 9), "has no checkpoint of step 9; there are: 1, 2, 3"),
        ((good, cut), f"{cut}/teacher.safetensors: cannot be read"),
        ((good, fifo), f"{fifo}/state.json: cannot be read"),
    ):
        result = bigrun("diff", *words)
        assert result.exit_code == 2
        assert result.output.startswith("error: ")
        assert expected in result.output


# -- prune ------------------------------------------------------------------------------------------------------------


def history(store: CheckpointStore) -> None:
    """Steps 10 to 60; from 40 on nothing is healthy; 20 is damaged."""
    for step in range(10, 70, 10):
        save(store, step, anomalies=["loss-spike"] if step >= 40 else [])
    damage(store.path(20))


def test_pruning_says_what_it_would_do_and_why(store: CheckpointStore, bigrun: Command, run: Path) -> None:
    history(store)
    result = bigrun("prune", "RUN", "--keep-last", 2, "--keep-every", 40, "--dry-run")
    assert result.exit_code == 0
    *lines, last = result.output.splitlines()
    assert re.match(r"step-00000010: goes \(\d", lines.pop(0))
    assert lines == [
        "step-00000020: stays (damaged, or of a newer version: it is not judged)",
        "step-00000030: stays (the last healthy one)",
        "step-00000040: stays (a milestone)",
        "step-00000050: stays (one of the newest 2)",
        "step-00000060: stays (one of the newest 2)",
    ]
    assert last.startswith("to remove: 1 of 6 checkpoints, ")
    assert len(store.steps()) == 6
    assert sorted(path.name for path in run.iterdir()) == ["checkpoints"]


def test_pruning_removes_after_a_yes(store: CheckpointStore, bigrun: Command, run: Path) -> None:
    history(store)
    for answer in ("n\n", "", "\n"):
        result = bigrun("prune", "RUN", "--keep-last", 2, given=answer)
        assert result.exit_code == 1
        assert "Remove 2 of 6 checkpoints, " in result.output
        assert len(store.steps()) == 6
    assert bigrun("prune", "RUN", "--keep-last", 2, given="y\n").exit_code == 0
    assert store.steps() == [20, 30, 50, 60]
    assert sorted(path.name for path in run.iterdir()) == ["checkpoints"]  # no lock is left
    assert bigrun("prune", "RUN", "--keep-last", 2, "--no-keep-healthy", "--yes").exit_code == 0
    assert store.steps() == [20, 50, 60]
    result = bigrun("prune", "RUN", "--keep-last", 2)
    assert (result.exit_code, result.output.splitlines()[-1]) == (0, "nothing to remove")


def test_chosen_steps_stay(store: CheckpointStore, bigrun: Command) -> None:
    history(store)
    assert bigrun("prune", "RUN", "--keep-last", 2, "--keep", 10, "--keep", 40, "--yes").exit_code == 0
    assert store.steps() == [10, 20, 30, 40, 50, 60]
    result = bigrun("prune", "RUN", "--keep-last", 2, "--keep", 11, "--yes")
    assert result.exit_code == 2
    assert "error: --keep 11: " in result.output


def test_two_verified_ones_always_stay(store: CheckpointStore, bigrun: Command) -> None:
    """Whatever is newer than the newest verified one does not count, and is not touched."""
    history(store)
    for step in (40, 50, 60):
        damage(store.path(step))
    assert bigrun("prune", "RUN", "--keep-last", 2, "--yes").exit_code == 0
    assert store.steps() == [10, 20, 30, 40, 50, 60]
    assert [step for step in store.steps() if not verify(store.path(step))] == [10, 30]
    assert bigrun("prune", "RUN", "--keep-last", 1, "--yes").exit_code == 2


def test_a_run_in_use_is_refused_by_name(store: CheckpointStore, bigrun: Command, run: Path) -> None:
    history(store)
    script = "import sys, pathlib; from bigrun.lock import RunLock; RunLock(pathlib.Path(sys.argv[1])).acquire(); "
    script += "print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", script, str(run)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        result = bigrun("prune", "RUN", "--keep-last", 2, "--yes")
        assert result.exit_code == 2
        assert f"error: {run} is in use by process {holder.pid} on {socket.gethostname()}" in result.output
        assert len(store.steps()) == 6
        assert bigrun("prune", "RUN", "--keep-last", 2, "--dry-run").exit_code == 0  # changes nothing
        holder.communicate()


def test_whoever_lost_the_lock_removes_nothing_more(store: CheckpointStore, run: Path) -> None:
    history(store)
    with unused(run) as lock:
        plan = plan_pruning(run, Policy())
        assert plan.goes == (10, 40)
        (run / LOCK).unlink()
        (run / LOCK).write_text("of another")
        with pytest.raises(RunDirectoryError, match="is not the lock of this process any more"):
            remove(run, plan, lock)
    assert len(store.steps()) == 6
    assert (run / LOCK).read_text() == "of another"


# -- as a command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["--help"], ["list"], ["verify"], ["prune", "--keep-last", "2", "--dry-run"]])
def test_only_diff_loads_torch(store: CheckpointStore, run: Path, words: list[str]) -> None:
    save(store, 1)
    arguments = words if words == ["--help"] else [words[0], str(run), *words[1:]]
    script = "import sys; from bigrun.cli import main; main(['checkpoints', *sys.argv[1:]], standalone_mode=False); "
    script += "print([name for name in ('torch', 'numpy', 'safetensors') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
