"""`bigrun replay`: the step again, and where its first bad value was born."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from training import Training

from bigrun import hookimpl
from bigrun.anomaly import Action, Anomaly
from bigrun.errors import UsageError
from bigrun.replay.births import Births, watched
from bigrun.replay.replay import replay
from bigrun.replay.report import report_lines
from bigrun.testing.runner import Runner

BREAKING = """
from torch import nn
from bigrun import hookimpl
import torch


class Root(nn.Module):
    def forward(self, x):
        return torch.sqrt(x)  # of a negative number


class Breaks:
    '''Makes a NaN in the third step: forward, or in the backward pass alone.'''

    def __init__(self):
        self.root = Root()

    @hookimpl
    def loss_terms(self, step, micro, outputs):
        x = outputs.global_features.cls.mean()
        if step == 3 and micro == 1:
            {line}
        return {{}}
"""
FORWARD = "return {'root': self.root(x - x.detach() - 1)}"
BACKWARD = "return {'root': self.root((x - x.detach()) * 0).sum() * 1.0}"  # the gradient of a root at 0 is infinite


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a tiny training on real files with a plugin that breaks it; returns its directory and result."""

    def run(line: str) -> tuple[Training, Any]:
        training = Training(tmp_path, data={"micro_batch": 2}, run={"halt_after_skips": 1, "max_steps": 5})
        (tmp_path / "breaks.py").write_text(BREAKING.format(line=line), encoding="utf-8")
        monkeypatch.chdir(tmp_path)
        return training, training("--plugin", "breaks:Breaks")

    return run


def cli(*words: str, folder: Path) -> Any:
    return subprocess.run(
        [sys.executable, "-m", "bigrun", *words], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.slow
def test_a_nan_of_the_forward_pass_is_found_with_its_place(broken: Any) -> None:
    training, done = broken(FORWARD)
    assert done.returncode == 5, done.stderr
    before = {path: path.stat().st_mtime_ns for path in training.run.rglob("*")}
    found = cli("replay", "runs/tiny", folder=training.folder)
    assert found.returncode == 0, found.stderr
    assert "step 3, replayed from runs/tiny/emergency/step-00000002" in found.stdout
    assert "operation  sqrt" in found.stdout
    assert "breaks.py:9 in forward" in found.stdout
    assert "loss_terms of breaks:Breaks, micro-batch 1" in found.stdout
    assert "images/" in found.stdout
    assert "numbers are those of the first time, bit for bit" in found.stdout
    assert {path: path.stat().st_mtime_ns for path in training.run.rglob("*")} == before


@pytest.mark.slow
def test_an_infinity_of_the_backward_pass_names_the_forward_line(broken: Any) -> None:
    training, done = broken(BACKWARD)
    assert done.returncode == 5, done.stderr
    found = cli("replay", "runs/tiny", "--step", "3", folder=training.folder)
    assert found.returncode == 0, found.stderr
    assert "backward pass" in found.stdout
    assert "the gradient of" in found.stdout
    assert "breaks.py:9 in forward" in found.stdout


def test_a_sound_step_is_replayed_from_an_earlier_checkpoint_with_the_same_numbers(bigrunner: Runner) -> None:
    class Keeps:
        @hookimpl
        def before_update(self, run: Any, step: int) -> None:
            if step == 6:
                run.report_anomaly(Anomaly("test", step, "look at me"))

        @hookimpl(tryfirst=True)
        def on_anomaly(self) -> Action:
            return Action.SAVE

    result = bigrunner.run(
        "demo-photos", steps=6, companions=[Keeps()], dataset=False, run={"checkpoint_every_steps": 2}
    )
    result.assert_finished()
    again = replay(result.directory, 6)
    assert again.checkpoint.name == "step-00000005"
    assert again.recorded == again.values
    earlier = replay(result.directory, 5)
    assert earlier.checkpoint.name == "step-00000004"
    assert earlier.values["loss"] == result.losses[4]
    assert earlier.births == []
    assert "every operation gave finite values" in list(report_lines(earlier))


def test_without_such_a_checkpoint_the_replay_is_refused(bigrunner: Runner, tmp_path: Path) -> None:
    result = bigrunner.run("demo-photos", steps=2, dataset=False)
    with pytest.raises(UsageError, match="no verified checkpoint before step 1"):
        replay(result.directory, 1)
    with pytest.raises(UsageError, match="no emergency checkpoint: say which step"):
        replay(result.directory, None)
    with pytest.raises(UsageError, match="no run"):
        replay(tmp_path / "nowhere", 3)


def births_of(module: nn.Module, x: torch.Tensor, *, backward: bool = False) -> Births:
    births = Births({"net": module})
    with watched(births):
        y = module(x)
        if backward:
            y.sum().backward()
    return births


class Masked(nn.Module):
    """An infinity that is meant, as in every mask."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.masked_fill(x > 0, -math.inf).softmax(-1)


class Inner(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * 1e30) * 1e30


def test_a_mask_of_infinities_is_no_finding() -> None:
    assert births_of(Masked(), torch.tensor([[1.0, -1.0, 2.0]])).found == []


def test_the_innermost_module_is_named_and_inputs_are_described() -> None:
    (birth,) = births_of(nn.Sequential(nn.Linear(2, 2), Inner()), torch.ones(3, 2)).found
    assert birth.module == "net.1"
    assert birth.operation == "mul"
    assert birth.output.infinite == 6
    assert (birth.output.shape, birth.output.dtype) == ((3, 2), "float32")
    assert birth.inputs[0].largest > 1e29


def test_what_was_bad_before_is_not_blamed_on_anybody() -> None:
    assert births_of(nn.Linear(2, 2), torch.full((1, 2), math.nan)).found == []


def test_an_operation_in_place_is_described_as_it_was_before() -> None:
    class InPlace(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.clone().log_()

    (birth,) = births_of(InPlace(), torch.tensor([-2.0])).found
    assert birth.inputs[0].largest == 2.0
    assert birth.output.nan == 1


def test_watching_changes_no_number() -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 1)), torch.randn(5, 4)
    net(x).sum().backward()
    plain = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    net.zero_grad()
    births_of(net, x, backward=True)
    assert all(torch.equal(a, p.grad) for a, p in zip(plain, net.parameters(), strict=True) if p.grad is not None)
