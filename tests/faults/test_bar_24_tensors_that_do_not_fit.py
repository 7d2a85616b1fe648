"""Bar 24: a checkpoint whose every byte is as it was saved, but which lacks a tensor, has one too many, or one of
another shape. The error names every key, and nothing is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bigrun.checkpoint.store import CheckpointStore
from bigrun.errors import CheckpointError, ExitCode
from bigrun.testing.runner import TINY, Runner, RunResult

Groups = dict[str, dict[str, Tensor]]
KEY = "backbone.blocks.1.mlp.fc1.weight"
BIAS = "backbone.blocks.1.mlp.fc1.bias"


def save_again(directory: Path, change: Callable[[Groups], None]) -> None:
    """The newest checkpoint with other tensors, sealed as whole."""
    store = CheckpointStore(directory / "checkpoints")
    step = store.steps()[-1]
    path = store.path(step)
    groups = {file.stem: store.load_tensors(path, file.stem) for file in path.glob("*.safetensors")}
    groups = {stem: {name: tensor.clone() for name, tensor in group.items()} for stem, group in groups.items()}
    change(groups)
    state = store.load_facts(path, "state")
    store.save(step, groups, {"state": state}, (path / "config.toml").read_text())


def lose(groups: Groups) -> None:
    del groups["student"][KEY], groups["student"][BIAS]


def gain(groups: Groups) -> None:
    groups["teacher"]["backbone.blocks.7.extra"] = torch.zeros(3)


def reshape(groups: Groups) -> None:
    groups["student"][KEY] = groups["student"][KEY].T.contiguous()


def everything(groups: Groups) -> None:
    lose(groups)
    groups["student"]["unheard"] = torch.zeros(1)
    groups["student"]["backbone.patch_embed.proj.bias"] = torch.zeros(5)


def lose_a_moment(groups: Groups) -> None:
    del groups["optimizer"][f"student.{KEY}/exp_avg_sq"]


def reshape_a_moment(groups: Groups) -> None:
    groups["optimizer"][f"student.{KEY}/exp_avg"] = torch.zeros(2, 2)


def lose_a_centre(groups: Groups) -> None:
    groups["centring"].popitem()


def lose_a_group(groups: Groups) -> None:
    del groups["teacher"]


@pytest.fixture
def saved(bigrunner: Runner) -> RunResult:
    result = bigrunner.run(steps=1, objective={**TINY["objective"], "centring": "softmax"})
    result.assert_finished()
    return result


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lose, ["step-00000001/student.safetensors", f"missing (2): {BIAS}, {KEY}"]),
        (gain, ["step-00000001/teacher.safetensors", "unknown (1): backbone.blocks.7.extra"]),
        (reshape, [f"wrong (1): {KEY} has shape (32, 64), expected (64, 32)"]),
        (everything, ["missing (2)", "unknown (1): unheard", "backbone.patch_embed.proj.bias has shape (5,)"]),
        (lose_a_moment, [f"missing (1): student.{KEY}/exp_avg_sq"]),
        (reshape_a_moment, [f"wrong (1): student.{KEY}/exp_avg has shape (2, 2), expected (64, 32)"]),
        (lose_a_centre, ["centring.safetensors", "missing (1): "]),
        (lose_a_group, ["teacher.safetensors"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)  # fmt: skip
def test_bar_24_the_error_names_the_keys(
    bigrunner: Runner, saved: RunResult, change: Callable[[Groups], None], named: list[str]
) -> None:
    save_again(saved.directory, change)
    before = {path: path.read_bytes() for path in saved.directory.rglob("*") if path.is_file()}
    result = bigrunner.run(steps=3, directory=saved.directory, objective={**TINY["objective"], "centring": "softmax"})
    assert result.exit_code == ExitCode.ERROR
    assert isinstance(result.error, CheckpointError)
    for text in named:
        assert text in str(result.error)
    assert "before_step" not in result.hooks.names()
    assert {path: path.read_bytes() for path in saved.directory.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["step", "position", "optimizer", "plugins", "versions"])
def test_bar_24_facts_that_are_missing_are_named(bigrunner: Runner, saved: RunResult, name: str) -> None:
    store = CheckpointStore(saved.directory / "checkpoints")
    state = store.load_facts(store.path(1), "state")
    del state[name]
    store.amend(1, {"state": state})
    result = bigrunner.run(steps=3, directory=saved.directory, objective={**TINY["objective"], "centring": "softmax"})
    assert isinstance(result.error, CheckpointError)
    assert f"step-00000001/state.json: missing (1): {name}" in str(result.error)


@pytest.mark.parametrize("facts", [[], "text", None])
def test_bar_24_facts_that_are_none(bigrunner: Runner, saved: RunResult, facts: object) -> None:
    CheckpointStore(saved.directory / "checkpoints").amend(1, {"state": facts})
    result = bigrunner.run(steps=3, directory=saved.directory, objective={**TINY["objective"], "centring": "softmax"})
    assert isinstance(result.error, CheckpointError)
    assert "step-00000001/state.json: missing (9): step, position" in str(result.error)
